"""Results for positions of logs, cached for the next page and the next query.

The history up to a position never changes. Threads share the cache.
"""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Final, TypeVar

from msgspec import Struct

from eventstore.language.catalogue import Catalogue
from projector.history.positions import LogPosition
from projector.history.replay import HistoricalState, PoolStatistics, Population

POSITIONS_CACHED: Final = 500
IDS_CACHED: Final = 500_000
"""Ids of agents and workers, over all positions."""

T = TypeVar("T")


class CachedPool(Struct):
    """Results for one position."""

    agents: Population
    workers: Population
    statistics: PoolStatistics | None = None

    def __len__(self) -> int:
        return len(self.agents.all_ids) + len(self.workers.all_ids)


class HistoryCache:
    """Methods raise what computing a result raises."""

    def __init__(self) -> None:
        self._pools: OrderedDict[LogPosition, CachedPool] = OrderedDict()
        self._catalogues: OrderedDict[LogPosition, Catalogue] = OrderedDict()
        self._lock = Lock()

    def pool(self, state: HistoricalState) -> CachedPool:
        """The agents and workers of a pool."""
        cached = self._get(self._pools, state, lambda: CachedPool(*state.population()))
        with self._lock:
            while len(self._pools) > 1 and sum(map(len, self._pools.values())) > IDS_CACHED:
                self._pools.popitem(last=False)
        return cached

    def statistics(self, state: HistoricalState) -> PoolStatistics:
        cached = self.pool(state)
        if cached.statistics is None:
            cached.statistics = state.statistics(cached.agents, cached.workers)
        return cached.statistics

    def catalogue(self, state: HistoricalState) -> Catalogue:
        return self._get(self._catalogues, state, state.catalogue)

    def _get(
        self, cache: OrderedDict[LogPosition, T], state: HistoricalState, compute: Callable[[], T]
    ) -> T:
        with self._lock:
            if (cached := cache.get(state.position)) is not None:
                cache.move_to_end(state.position)
                return cached
        state.require_complete()
        cached = compute()
        with self._lock:
            cache[state.position] = cached
            while len(cache) > POSITIONS_CACHED:
                cache.popitem(last=False)
        return cached
