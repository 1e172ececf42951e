"""The scene that a fault works on, and how faults are declared.

A fault breaks something, waits a while, repairs it, and returns; it repairs it also when it is
cancelled. It reports to the time line what it hit.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from msgspec import Struct

from tests.chaos.load import Load
from tests.chaos.recovering import Recovery
from tests.chaos.system import System


class Scene(Struct, frozen=True):
    """Where a fault happens. `note` adds to its line in the time line."""

    system: System
    load: Load
    recovery: Recovery
    random: Random
    note: Callable[[str], None]
    count: Callable[[str], None]
    """Counts a kill or an outage, for the summary."""

    async def wait(self, least: float, most: float) -> float:
        """Wait a random while; returns for how many seconds."""
        seconds = self.random.uniform(least, most)
        await asyncio.sleep(seconds)
        return seconds


class Fault(Struct, frozen=True):
    """`needs`: of `mounts`, `clocks`, `postgresql`, `recover`; without one it cannot be done."""

    name: str
    does: str
    run: Callable[[Scene], Awaitable[None]]
    needs: frozenset[str] = frozenset()


FAULTS: dict[str, Fault] = {}


def fault(*needs: str) -> Callable[[Any], Any]:
    """Declare a coroutine function as a fault: its name, and the first line of its docstring."""

    def declare(run: Any) -> Any:
        does = str(run.__doc__).splitlines()[0].rstrip(".")
        FAULTS[run.__name__] = Fault(run.__name__, does, run, frozenset(needs))
        return run

    return declare
