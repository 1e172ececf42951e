"""Prints at the terminal of `muster up` what happens to Redis, to the logs and to roles.

The roles log it to files: Redis is unreachable or reachable again, a log is lost, is being
recovered, was recovered, which commands could not be saved, and of which pools no agent can be
started. These files are followed, and each
such fact is printed once, in one line for all logs and roles that it concerns.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from eventstore.keys import CATALOGUE
from eventstore.language.workers import ROLE_NOT_DECLARED, is_role_problem
from eventstore.ticks import tick
from muster.terminal.log_reader import LogFile, merged
from muster.terminal.render import clean, one_line

POLL_SECONDS: Final = 2.0
NAMED_MAX: Final = 3
REMEMBERED_MAX: Final = 10_000

SENTENCES: Final[Mapping[str, str]] = {
    "roles_missing": "no agents of {names} can be started here: {reason}",
    "unreachable": "Redis is unreachable ({reason}): commands are refused, agents run until their"
    " leases lapse; all resumes by itself",
    "reachable": "Redis is reachable again after {reason} s",
    "views_unavailable": "the views cannot be written: {reason}; the projector tries again",
    "views_available": "the views are written again",
    "views_repaired": "{reason}",
    "lost": "the log{s} of {names} {are} lost{why}: commands are refused; {remedy}",
    "recovering": "recovering what is lost: agents run again once every lease has lapsed",
    "recovered": "the log{s} of {names} {were} recovered",
    "resumed": "the log{s} of {names} {are} served again",
    "reloaded": "{names} changed: {reason} replaced",
    "not_reloaded": "{names} changed, but cannot be imported; the workers go on with the code"
    " before:\n{reason}",
    "command_lost": "{count} command{s} could not be saved: {names}; `command.lost` in the roles'"
    " logs names all: send again what is still wanted",
}
"""In the order in which they are printed: roles do not write at the same time."""


class LogMessages:
    """Collects log lines until `pop_texts`.

    `remedy`: what to do about a loss. `lost`: logs whose loss was printed already.
    """

    def __init__(self, remedy: str, lost: Iterable[str] = ()) -> None:
        self._remedy = remedy
        self._new: dict[str, list[tuple[str, str]]] = {}
        self._lost = set(lost)
        self._seen: dict[tuple[object, ...], None] = {}
        self._recovering = False
        self._views_unavailable = False

    def receive(self, line: Mapping[str, object]) -> None:
        """Apply one line. Gateway and projector log all of this; a worker's `log.lost` is ignored.

        A recovery is logged by the projector that did it and by each gateway that reads of it.
        """
        pool, reason = str(line.get("pool", "")), str(line.get("reason", ""))
        match line.get("event"):
            case "gateway.redis_unreachable":
                self._add("unreachable", "", reason)
            case "gateway.redis_reachable":
                self._add("reachable", "", str(line.get("seconds", "")))
            case "log.lost" if "worker_id" not in line:
                self._add_lost(pool, reason)
            case "projection.stopped" if line.get("lost"):
                self._add_lost(pool, reason)
            case "projection.resumed" if pool in self._lost:  # no other role reports its return
                self._lost.remove(pool)
                self._add("resumed", _log_name(pool))
            case "projector.recovering" if not self._recovering:
                self._recovering = True
                self._add("recovering", "")
            case "log.recovered":
                self._recovering &= "lost" not in line  # only the projector's line has it
                # pools that a recovered catalogue no longer knows are not recovered either
                self._lost = set() if pool == CATALOGUE else self._lost - {pool}
                if self._is_new(pool, line.get("generation")):
                    self._add("recovered", _log_name(pool))
            case "command.lost":
                command = f"{line.get('kind', '')} {line.get('agent_id', '')}"
                if self._is_new(pool, command):
                    self._add("command_lost", command)
            case _:
                self._receive_of_views(line, reason)
                self._receive_of_roles(line, pool, reason)

    def _receive_of_roles(self, line: Mapping[str, object], pool: str, reason: str) -> None:
        """Apply a line about the code of agents."""
        match line.get("event"):
            case "code.reloaded":
                count = line.get("workers")
                workers = "1 worker is" if count == 1 else f"{count} workers are"
                self._add("reloaded", _listed(line.get("files")), workers)
            case "code.not_reloaded":
                self._add("not_reloaded", _listed(line.get("files")), str(line.get("error", "")))
            case "pool.role_not_declared":
                why = f"role {line.get('role')!r} is not declared; `muster doctor` says which are"
                self._add("roles_missing", f"pool {pool}", why)
            case "pool.blocked" if is_role_problem(reason) and self._is_new(pool, reason):
                if not reason.startswith(ROLE_NOT_DECLARED):  # which the line above says
                    self._add("roles_missing", f"pool {pool}", reason)
            case _:
                pass

    def _receive_of_views(self, line: Mapping[str, object], reason: str) -> None:
        """Apply a line about the database of the views."""
        match line.get("event"):
            case "projector.unavailable" if line.get("source") == "database":
                self._views_unavailable = True
                self._add("views_unavailable", "", reason)
            case "projector.resumed" if self._views_unavailable:
                self._views_unavailable = False
                self._add("views_available", "")
            case "views.file_restored":
                text = f"{line.get('path')} was {line.get('was')}; it is restored with its content"
                self._add("views_repaired", "", f"{text}{_aside(line)}")
            case "views.file_replaced":
                self._add("views_repaired", "", f"{reason}; it is built again{_aside(line)}")
            case "views.wal_large":
                self._add("views_repaired", "", str(line.get("text", "")))
            case _:
                pass

    def pop_texts(self) -> list[str]:
        """One line for each kind of fact received since the last call."""
        found, self._new = self._new, {}
        return [self._text(kind, found[kind]) for kind in SENTENCES if kind in found]

    def _add(self, kind: str, subject: str, reason: str = "") -> None:
        self._new.setdefault(kind, []).append((subject, reason))

    def _add_lost(self, pool: str, reason: str) -> None:
        if pool not in self._lost:
            self._lost.add(pool)
            self._add("lost", _log_name(pool), reason)

    def _is_new(self, *fact: object) -> bool:
        """Whether no role has logged this before."""
        new = fact not in self._seen
        self._seen[fact] = None
        if len(self._seen) > REMEMBERED_MAX:
            del self._seen[next(iter(self._seen))]
        return new

    def _text(self, kind: str, facts: Sequence[tuple[str, str]]) -> str:
        several, names = len(facts) > 1, [subject for subject, _ in facts]
        why = next((reason for _, reason in facts if reason), "")
        why = why.partition(": ")[0] if several else why
        sentence = SENTENCES[kind].format(
            count=len(facts),
            names=_listed(names),
            s="s" if several else "",
            are="are" if several else "is",
            were="were" if several else "was",
            reason=facts[-1][1],
            why=f" ({why})" if why else "",
            remedy=self._remedy,
        )
        return clean(sentence) if kind == "not_reloaded" else one_line(sentence)


def _listed(names: object) -> str:
    names = [str(name) for name in names] if isinstance(names, list) else []
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more


def _aside(line: Mapping[str, object]) -> str:
    return f"; what was there is {aside}" if (aside := line.get("aside")) else ""


def _log_name(pool: str) -> str:
    return "the catalogue" if pool == CATALOGUE else f"pool {pool}"


class _LogFromEnd(LogFile):
    """A log of which only the lines written from now on are read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with contextlib.suppress(OSError):
            self._open = path.open("rb")
            self._open.seek(0, os.SEEK_END)


async def follow(paths: Iterable[Path], messages: LogMessages, echo: Callable[[str], None]) -> None:
    """Print what is logged there from now on, until cancelled."""
    files = [_LogFromEnd(path) for path in paths]
    try:
        while True:
            with contextlib.suppress(OSError):  # no descriptor is free: the next time
                for line in merged(files, lambda _: True):
                    messages.receive(line.document)
            for text in messages.pop_texts():
                echo(text)
            await tick(POLL_SECONDS)
    finally:
        for file in files:
            file.close()
