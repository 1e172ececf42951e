"""What befalls the logs, told at the terminal of `muster up`.

The roles write it to files that nobody looks at: that Redis is away, and back, that a log is lost,
is being recovered, and was, and what could not be saved. Here these files are followed, and each of
these is said in one line, however many logs and roles it concerns.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from msgspec import Struct

from eventstore.keys import CATALOGUE
from muster.terminal.log_reader import LogFile, merged
from muster.terminal.render import one_line

POLL_SECONDS: Final = 0.5
NAMED_MAX: Final = 3
REMEMBERED_MAX: Final = 10_000
ORDER: Final = ("away", "back", "lost", "recovering", "recovered", "resumed", "unsaved")
"""In which it is told what was heard at one look: roles do not write at the same moment."""


class Message(Struct, frozen=True):
    """Something to say. Those of one `about` are one line."""

    kind: str
    subject: str
    reason: str = ""


class LogMessages:
    """Lines of logs, and what of them a person must know. `remedy`: what to do about a loss."""

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy
        self._messages: list[Message] = []
        self._lost: set[str] = set()
        self._generations: dict[str, int] = {}
        self._lost_commands: dict[tuple[str, str, str], None] = {}
        self._recovering = False

    def mark_lost(self, pool: str) -> None:
        """Somebody has said that this log is lost."""
        self._lost.add(pool)

    def receive(self, line: Mapping[str, object]) -> None:
        """Take one line. Gateway and projector tell it all; a worker only adds what it holds."""
        pool = str(line.get("pool", ""))
        match line.get("event"):
            case "gateway.redis_away":
                self._messages.append(Message("away", "Redis", str(line.get("reason", ""))))
            case "gateway.redis_back":
                self._messages.append(Message("back", "Redis", str(line.get("seconds", ""))))
            case "log.lost" if "worker_id" not in line:
                self._add_lost(pool, str(line.get("reason", "")))
            case "projection.stopped" if line.get("lost"):
                self._add_lost(pool, str(line.get("reason", "")))
            case "projection.resumed" if pool in self._lost:  # nobody else saw how it came back
                self._lost.remove(pool)
                self._messages.append(Message("resumed", _log_name(pool)))
            case "projector.recovering" if not self._recovering:
                self._recovering = True
                self._messages.append(Message("recovering", pool))
            case "log.recovered":
                self._recovering &= "unsaved" not in line  # said by whoever has done it
                self._add_recovered(pool, line.get("generation"))
            case "command.unsaved":
                self._add_lost_command(
                    pool, str(line.get("kind", "")), str(line.get("agent_id", ""))
                )
            case _:
                pass

    def pop_texts(self) -> list[str]:
        """What is to be said of all that was heard since the last time."""
        messages, self._messages = (
            sorted(self._messages, key=lambda item: ORDER.index(item.kind)),
            [],
        )
        return [
            one_line(self._text(about, list(some)))
            for about, some in groupby(messages, key=lambda item: item.kind)
        ]

    def _add_lost(self, pool: str, reason: str) -> None:
        if pool not in self._lost:
            self._lost.add(pool)
            self._messages.append(Message("lost", _log_name(pool), reason))

    def _add_recovered(self, pool: str, generation: object) -> None:
        """Once, whoever says so: the projector that did it, or a gateway that reads it."""
        self._lost.discard(pool)
        if pool == CATALOGUE:
            self._lost.clear()  # what it does not know any more is not recovered, either
        if isinstance(generation, int) and generation > self._generations.get(pool, 0):
            self._generations[pool] = generation
            self._messages.append(Message("recovered", _log_name(pool)))

    def _add_lost_command(self, pool: str, kind: str, subject: str) -> None:
        key = (pool, kind, subject)
        if key not in self._lost_commands:
            self._lost_commands[key] = None
            if len(self._lost_commands) > REMEMBERED_MAX:
                del self._lost_commands[next(iter(self._lost_commands))]
            self._messages.append(Message("unsaved", f"{kind} {subject}"))

    def _text(self, kind: str, messages: Sequence[Message]) -> str:
        names = _join_names([item.subject for item in messages])
        several = len(messages) > 1
        match kind:
            case "away":
                return (
                    f"Redis is away ({messages[-1].reason}): commands are refused, agents run until"
                    " their leases lapse; all resumes by itself"
                )
            case "back":
                return f"Redis is back after {messages[-1].reason} s"
            case "lost":
                why = next((item.reason for item in messages if item.reason), "")
                why = f" ({why.partition(': ')[0] if several else why})" if why else ""
                sentence = (
                    f"the logs of {names} are lost" if several else f"the log of {names} is lost"
                )
                return f"{sentence}{why}: commands are refused; {self._remedy}"
            case "recovering":
                return "recovering what is lost: what ran runs again once every lease has lapsed"
            case "recovered":
                sentence = f"the logs of {names} were" if several else f"the log of {names} was"
                return f"{sentence} recovered"
            case "resumed":
                return f"the logs of {names} go on" if several else f"the log of {names} goes on"
            case _:
                sentence = f"{len(messages)} things" if several else "1 thing"
                return (
                    f"{sentence} could not be saved: {names}; `command.unsaved` in the roles' logs"
                    " names all: ask again for what is still wanted"
                )


def _log_name(pool: str) -> str:
    return "the catalogue" if pool == CATALOGUE else f"pool {pool}"


def _join_names(names: Sequence[str]) -> str:
    more = len(names) - NAMED_MAX
    shown = ", ".join(names[:NAMED_MAX])
    return f"{shown} and {more} more" if more > 0 else shown


class _LogFromEnd(LogFile):
    """A log of which only what comes from now on is told."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with contextlib.suppress(OSError):
            self._open = path.open("rb")
            self._open.seek(0, os.SEEK_END)


async def follow(paths: Iterable[Path], messages: LogMessages, echo: Callable[[str], None]) -> None:
    """Say what these logs tell from now on, until cancelled."""
    files = [_LogFromEnd(path) for path in paths]
    try:
        while True:
            for line in merged(files, lambda _: True):
                messages.receive(line.document)
            for text in messages.pop_texts():
                echo(text)
            await asyncio.sleep(POLL_SECONDS)
    finally:
        for file in files:
            file.close()
