"""The states that a batch of events continues: from a cache, or from the rows of a table."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from sqlalchemy import Connection, Table, select

from projector.store import mapping
from projector.store.mapping import Row

CACHE_MAX: Final = 50_000
"""Agents, and workers, whose state is cached."""
IDS_MAX: Final = 500
"""Ids in one SELECT."""

T = TypeVar("T")


class PriorStates(Generic[T]):
    """Of the rows in one table; those that have not ended are cached once they are committed."""

    def __init__(self, table: Table, key: str, state_of: Callable[[Row], T]) -> None:
        self._table = table
        self._key = key
        self._state_of = state_of
        self.cached: OrderedDict[tuple[str, str], T] = OrderedDict()

    def read(self, connection: Connection, pool: str, ids: set[str]) -> dict[str, T]:
        found = {i: self.cached[pool, i] for i in ids if (pool, i) in self.cached}
        columns = self._table.c
        for chunk in mapping.chunks(sorted(ids - found.keys()), IDS_MAX):
            of_chunk = (columns.pool_name == pool, columns[self._key].in_(chunk))
            rows = connection.execute(select(self._table).where(*of_chunk)).mappings()
            found |= {row[self._key]: self._state_of(row) for row in rows}
        return found

    def remember(self, pool: str, name: str, state: T, *, ended: bool) -> None:
        self.cached.pop((pool, name), None)
        if not ended:
            self.cached[pool, name] = state
        if len(self.cached) > CACHE_MAX:
            self.cached.popitem(last=False)
