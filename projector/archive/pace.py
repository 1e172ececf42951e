"""How carefully the archive is exported and pruned while other work must go on."""

import asyncio
import time
from typing import Final

from msgspec import Struct

from projector.store.lease import Lease

REMOVED: Final = 5000
"""Events that a command removes in one transaction."""


class Care(Struct, frozen=True, kw_only=True):
    """What a command does not need, which does as much as it can as fast as it can."""

    share: float = 1.0
    """Of the time it may work; it rests for the remainder."""
    removed: int = REMOVED
    """Events that leave in one transaction, for which other writers wait."""
    events_max: int = 0
    """Of one pool at a time; 0: all."""
    keeps_living: bool = False
    """Whether events of agents that live stay; else only the snapshot has these agents."""
    also: Lease | None = None
    """Another lease that each transaction proves."""


class Pace:
    """Rests after each part of the work, for as long as the work before it makes it."""

    def __init__(self, share: float) -> None:
        self._rest_by_work = 1 / share - 1
        self._since = time.monotonic()

    async def rest(self) -> None:
        """To be called after each part that takes a few milliseconds."""
        if self._rest_by_work:
            await asyncio.sleep((time.monotonic() - self._since) * self._rest_by_work)
        self._since = time.monotonic()
