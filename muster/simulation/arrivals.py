"""Arrivals for a simulation, from files: when each comes, and for how long it stays."""

import csv
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from math import inf
from pathlib import Path

from msgspec import Struct

from eventstore.errors import MusterError

Arrival = tuple[float, float]
"""Its time, and how long the agent lives, in seconds."""


class FileError(MusterError):
    """A file of arrivals that cannot be read; names the line."""


class Load(Struct, frozen=True):
    """What comes to a pool. Times in seconds."""

    arrive: Callable[[], Iterator[Arrival]]
    """The arrivals in order of time; the same each time."""
    present: Sequence[float] = ()
    """How long those live from `since` on that are there before."""
    since: float | None = None
    """When it begins; None: with the first arrival."""
    until: float = -inf
    """It does not end before, nor before the last agent has ended."""

    def everyone(self) -> Iterator[Arrival]:
        """All lives, also of those that are there before."""
        for life in self.present:
            yield self.since or 0.0, life
        yield from self.arrive()


class Lives(Struct, frozen=True):
    """How long agents live: `seconds`, or a column of the file times `scale`."""

    seconds: float = 600.0
    column: str = ""
    scale: float = 1.0


def arrivals_of(path: Path, lives: Lives) -> Load:
    """An arrival a row, with its time in the first column; a header is optional.

    Raises `FileError`.
    """
    header, rows = _rows(path)
    column = None
    if lives.column:
        if lives.column not in header:
            known = ", ".join(header) or "no header"
            raise FileError(f"{path}: has no column {lives.column!r}, but {known}")
        column = header.index(lives.column)
    found = []
    for line, row in rows:
        seconds = lives.seconds
        if column is not None:
            seconds = _number(path, line, row, column) * lives.scale
        found.append((_time(path, line, row), seconds))
    if not found:
        raise FileError(f"{path}: has no arrivals")
    found.sort()
    return Load(lambda: iter(found))


def counts_of(path: Path, scale: float, seed: int, lives: Lives) -> Load:
    """Rows of a time and how many arrived from then to the next; Poisson within it.

    Raises `FileError`.
    """
    _, rows = _rows(path)
    counts = [(_time(path, line, row), _number(path, line, row, 1) * scale) for line, row in rows]
    if len(counts) < 2 or any(later <= sooner for (sooner, _), (later, _) in pairwise(counts)):
        raise FileError(f"{path}: expected two rows or more, each with a later time")
    ends = [at for at, _ in counts[1:]]
    ends.append(2 * ends[-1] - counts[-2][0])

    def arrive() -> Iterator[Arrival]:
        draw = random.Random(seed).expovariate
        for (at, count), end in zip(counts, ends, strict=True):
            rate = count / (end - at)
            if rate <= 0:
                continue
            at += draw(rate)
            while at < end:
                yield at, lives.seconds
                at += draw(rate)

    return Load(arrive)


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, if there is one, and the rows with the numbers of their lines."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path}: {error}") from None
    if rows and _seconds(rows[0][1][0]) is None:
        return rows[0][1], rows[1:]
    return [], rows


def _time(path: Path, line: int, row: list[str]) -> float:
    seconds = _seconds(row[0])
    if seconds is None:
        wanted = "a time such as 2026-11-30 08:00:00, or a number of seconds"
        raise FileError(f"{path}, line {line}: expected {wanted}, got {row[0]!r}")
    return seconds


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _number(path: Path, line: int, row: list[str], column: int) -> float:
    try:
        number = float(row[column])
    except (IndexError, ValueError):
        got = repr(row[column]) if column < len(row) else "no such column"
        raise FileError(
            f"{path}, line {line}: expected a number in column {column + 1}, got {got}"
        ) from None
    if not 0 <= number < 1e12:
        raise FileError(f"{path}, line {line}: expected a number from 0 to 1e12, got {number:g}")
    return number
