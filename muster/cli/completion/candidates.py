"""What may follow on a command line: `muster __complete WORD…`, which the shells' scripts call.

The last word is the one that is being typed. Candidates are printed a line each, with a description
after a tab; the line `:files` or `:directories` leaves it to the shell. Nothing else is printed,
whatever fails: who presses Tab wants no messages.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Final

from muster.cli.completion.table import FLAG, Command, stored_table

FILES: Final = {"file": ":files", "directory": ":directories"}
LISTS: Final = frozenset({"state"})
"""Kinds of values of which several may be given, with commas."""
CONNECTION: Final = ("--url", "--token", "--data-dir")

Candidates = Mapping[str, str]
"""What may be typed, with a description or an empty text."""


def run(words: Sequence[str]) -> int:
    """Print the candidates for the last of the words after `muster`; returns the exit code."""
    try:
        with redirect_stderr(StringIO()):
            found = complete(words)
        lines = [f"{word}\t{text}" if text else word for word, text in found.items()]
        print("\n".join(lines))
    except Exception:  # noqa: BLE001  (see above)
        return 1
    return 0


def complete(words: Sequence[str]) -> Candidates:
    """The candidates for the last word."""
    *before, typed = joined(words) or [""]
    table = stored_table()
    if not before or before == ["help"]:
        names = {name: command["help"] for name, command in table.items()}
        return starting(typed, names if before else {**names, **GLOBAL})
    command = table.get(before[0])
    if command is None:
        return {}
    position = Position(command)
    for word in before[1:]:
        position.pass_over(word)
    return position.candidates(typed, connection(before))


GLOBAL: Final = {"help": "show the help of a command", "version": "show the version"}


class Position:
    """How far a command line has got."""

    def __init__(self, command: Command) -> None:
        self._command, self._number = command, 0
        self._awaited = ""
        """The kind of value that the last option has."""

    def pass_over(self, word: str) -> None:
        """Go on behind a word."""
        options = self._command["options"]
        if self._awaited:
            self._awaited = ""
        elif word.startswith("-"):
            if "=" not in word and word in options:
                self._awaited = options[word][0]
        elif word in self._command["actions"]:
            inner = self._command["actions"][word]
            options = {**options, **inner["options"]}
            self._command, self._number = {**inner, "options": options}, 0
        else:
            self._number += 1

    def candidates(self, typed: str, flags: Mapping[str, str]) -> Candidates:
        """What may be typed here. `flags`: where the gateway is."""
        options: Mapping[str, Sequence[str]] = self._command["options"]
        option, equals, value = typed.partition("=")
        if self._awaited:
            return of_kind(self._awaited, typed, flags)
        if equals and option in options:
            found = of_kind(options[option][0], value, flags)
            return {f"{option}={word}": text for word, text in found.items()}
        if typed.startswith("-"):
            return starting(typed, {name: text for name, (_, text) in options.items()})
        actions = {name: one["help"] for name, one in self._command["actions"].items()}
        return {**starting(typed, actions), **of_kind(self._kind(), typed, flags)}

    def _kind(self) -> str:
        """Of the next positional argument."""
        kinds: Sequence[str] = self._command["words"]
        if not kinds or (self._number >= len(kinds) and not self._command["more"]):
            return "pool" if self._number == 0 and "show" in self._command["actions"] else FLAG
        return kinds[min(self._number, len(kinds) - 1)]


def of_kind(kind: str, typed: str, flags: Mapping[str, str]) -> Candidates:
    """The values of a kind that begin as typed."""
    if kind in FILES:
        return {FILES[kind]: ""}
    if kind.startswith("one of "):
        return starting(typed, dict.fromkeys(kind.split()[2:], ""))
    from muster.cli.completion import values  # what it imports takes a while

    before, comma, last = typed.rpartition(",") if kind in LISTS else ("", "", typed)
    return {f"{before}{comma}{word}": text for word, text in values.find(kind, last, flags).items()}


def starting(typed: str, words: Mapping[str, str]) -> Candidates:
    """Those that begin as typed."""
    return {word: text for word, text in words.items() if word.startswith(typed)}


def connection(words: Sequence[str]) -> dict[str, str]:
    """The flags that say where the gateway is, as they were typed."""
    found: dict[str, str] = {}
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in CONNECTION:
            found[name] = value if equals else "".join(words[at + 1 : at + 2])
    return found


def joined(words: Sequence[str]) -> list[str]:
    """Bash makes three words of `--pool=night`."""
    return list(_joined(words))


def _joined(words: Sequence[str]) -> Iterator[str]:
    waiting = ""
    for at, word in enumerate(words):
        following = words[at + 1] if at + 1 < len(words) else ""
        if waiting.endswith("=") or (waiting and word == "="):
            waiting += word
        else:
            waiting = word
        begins = waiting.startswith("--") and (
            following == "=" or (word == "=" and at + 1 < len(words))
        )
        if not begins:
            yield waiting
            waiting = ""
