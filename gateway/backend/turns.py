"""So many submissions at once for each pool: a flood of spawns leaves the loop's turns to others.

What waits for its turn costs nothing but its connection. Turns are taken in the order in which
they were asked for, and those of one pool wait for no other.
"""

import asyncio
from typing import Final
from weakref import WeakValueDictionary

AT_ONCE: Final = 100
"""As many as one call of a script commits: more would only wait there."""


class Turns:
    """By name; a name that is not in use costs nothing."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._used: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, name: str) -> asyncio.Semaphore:
        """To be entered with `async with`."""
        turn = self._used.get(name)
        if turn is None:
            turn = self._used[name] = asyncio.Semaphore(self._at_once)
        return turn
