"""The output of a run: a time line while it runs, a summary at its end."""

import sys
import time
from pathlib import Path
from typing import TextIO

from msgspec import Struct, field

from tests.chaos.journal import Journal


class Figures(Struct):
    """What is counted in a run."""

    kills: int = 0
    outages: int = 0
    faults: int = 0
    rounds: int = 0
    reads: int = 0
    received: int = 0
    connections: int = 0
    restarts: int = 0
    recoveries: int = 0
    unsaved: int = 0
    operated: str = ""
    heal_seconds: list[float] = field(default_factory=list)
    slowest: str = ""


class TimeLine:
    """Lines with the time since the start of the run, to the screen and to a file."""

    def __init__(self, file: Path, screen: TextIO = sys.stdout) -> None:
        self._began = time.monotonic()
        self._screen = screen
        self._file = file.open("a")
        self._progress = ""

    def now(self) -> float:
        return time.monotonic() - self._began

    def say(self, line: str) -> None:
        """One line of the time line."""
        self._wipe()
        text = f"{self.now():7.1f} s  {line}"
        print(text, file=self._screen, flush=True)
        print(text, file=self._file, flush=True)

    def progress(self, text: str) -> None:
        """The current activity; only shown at a terminal, and overwritten by the next line."""
        if self._screen.isatty():
            self._wipe()
            self._progress = text[:110]
            print(self._progress, end="\r", file=self._screen, flush=True)

    def close(self) -> None:
        self._wipe()
        self._file.close()

    def _wipe(self) -> None:
        if self._progress:
            print(" " * len(self._progress), end="\r", file=self._screen)
            self._progress = ""


def left_undone(journal: Journal, figures: Figures) -> list[str]:
    """A run in which one of these never happened says nothing."""
    counted = {
        "command was acknowledged": journal.counts["acknowledged"],
        "read was answered": figures.reads,
        "event was received": figures.received,
        "fault was done": figures.faults,
    }
    return [f"no {what}" for what, count in counted.items() if not count]


def summary(journal: Journal, figures: Figures, answers: dict[str, int]) -> list[str]:
    """The figures in a few lines."""
    counts = journal.counts
    healed = sorted(figures.heal_seconds)
    middle = healed[len(healed) // 2] if healed else 0.0
    longest = healed[-1] if healed else 0.0
    often = sorted(answers.items(), key=lambda item: -item[1])[:8]
    said = ", ".join(f"{number} of {answer}" for answer, number in often)
    commands = (
        f"commands: {counts['acknowledged']} acknowledged ({counts['recovered']} of them found"
        f" done after an unknown outcome), {counts['refused']} refused,"
        f" {counts['unknown']} of unknown outcome"
    )
    faults = (
        f"faults: {figures.faults} in {figures.rounds} rounds; {figures.kills} kills,"
        f" {figures.outages} outages, {figures.restarts} restarts of roles"
    )
    heal = (
        f"healed: {middle:.1f} s in the middle, {longest:.1f} s at the longest"
        f" ({figures.slowest or 'nothing to heal'})"
    )
    received = (
        f"events: {figures.received} received by a client, over {figures.connections} connections"
    )
    operated = f"operated: {figures.operated or 'nothing'}"
    recovered = f"recovered logs: {figures.recoveries}, {figures.unsaved} commands named as lost"
    return [
        commands,
        f"reads: {figures.reads}; answers: {said}",
        received,
        faults,
        heal,
        operated,
        recovered,
    ]
