"""Results for positions of logs, cached for the next page and the next query.

The history up to a position never changes. Threads share the cache.
"""

from collections import OrderedDict
from threading import Lock
from typing import Final

from msgspec import Struct

from eventstore.language.catalogue import Catalogue
from projector.history.positions import LogPosition
from projector.history.replay import HistoricalState, Population
from projector.history.statistics import PoolStatistics

POSITIONS_CACHED: Final = 500
IDS_CACHED: Final = 500_000
"""Ids of agents and workers, over all positions."""


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
        position = state.position
        with self._lock:
            if cached := self._pools.get(position):
                self._pools.move_to_end(position)
                return cached
        state.require_complete()
        cached = CachedPool(*state.population())
        with self._lock:
            self._pools[position] = cached
            while self._is_full():
                self._pools.popitem(last=False)
        return cached

    def _is_full(self) -> bool:
        ids = sum(map(len, self._pools.values()))
        return len(self._pools) > 1 and (ids > IDS_CACHED or len(self._pools) > POSITIONS_CACHED)

    def statistics(self, state: HistoricalState) -> PoolStatistics:
        cached = self.pool(state)
        if cached.statistics is None:
            cached.statistics = state.statistics(cached.agents, cached.workers)
        return cached.statistics

    def catalogue(self, state: HistoricalState) -> Catalogue:
        with self._lock:
            if catalogue := self._catalogues.get(state.position):
                return catalogue
        state.require_complete()
        catalogue = state.catalogue()
        with self._lock:
            self._catalogues[state.position] = catalogue
            while len(self._catalogues) > POSITIONS_CACHED:
                self._catalogues.popitem(last=False)
        return catalogue
