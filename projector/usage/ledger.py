"""The running sums of one set of views: read before a batch, written with its rows.

Old rows are thinned: after a week only the last one of each hour is kept, after some 400 days only
the last one of each day. That follows from the log's time alone, so every fold has the same rows;
and as a row has sums since the beginning, no sum changes by it.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Final

from msgspec.structs import astuple
from sqlalchemy import Connection

from eventstore.language.agents import Agent
from eventstore.language.events import AgentRequested, Event
from projector.store.mapping import chunks
from projector.store.rows import Position
from projector.store.tables import ViewTables, run, write_rows
from projector.store.usage_rows import MINUTE_MS, NAMES, NO_LABELS, OTHER_LABELS, Account, Sums
from projector.usage.accounts import LABELLED_MAX, POOL, Key, key_of, number_of
from projector.usage.tally import Tally

CACHE_MAX: Final = 20_000
"""Accounts whose sums are cached."""
IDS_MAX: Final = 500
"""Accounts in one SELECT."""
DAY: Final = 1440
HOUR_MS: Final = 60 * MINUTE_MS
GRAINS: Final = ((1, 0), (60, 7 * DAY), (DAY, 400 * DAY))
"""In minutes: of so many the last row is kept, of those that are so old."""

_NEWEST: Final = f"""
SELECT {", ".join(f"s.{name}" for name in NAMES)} FROM {{{{}}}}{{0}} a JOIN {{{{}}}}{{1}} s
    ON s.pool_name = a.pool_name AND s.account = a.account AND s.minute = (
        SELECT max(m.minute) FROM {{{{}}}}{{1}} m
        WHERE m.pool_name = a.pool_name AND m.account = a.account)
WHERE a.pool_name = ? AND a.account IN ({{2}})
"""
_LABELLED: Final = "SELECT count(*) FROM {{}}{} WHERE pool_name = ? AND labels NOT IN (?, ?)"
_THIN: Final = """
DELETE FROM {{}}{1} AS old WHERE old.pool_name = ? AND old.minute >= ? AND old.minute < ?
    AND old.account IN (SELECT account FROM {{}}{0} WHERE pool_name = ?)
    AND EXISTS (SELECT * FROM {{}}{1} later
        WHERE later.pool_name = old.pool_name AND later.account = old.account
            AND later.minute > old.minute AND later.minute < (old.minute / {2} + 1) * {2})
"""


def thinned_before(ts: int) -> list[tuple[int, int]]:
    """For each length in minutes but the first: before which minute only the last rows are kept.

    `ts`: of the last event.
    """
    minute = ts // MINUTE_MS
    return [(step, max(minute - age, 0) // step * step) for step, age in GRAINS[1:]]


def grain_at(at_ms: int, ts: int) -> int:
    """The length in minutes of which a row is kept at some time, as of an event at `ts`."""
    minute = at_ms // MINUTE_MS
    return max([1, *(step for step, before in thinned_before(ts) if minute < before)])


class Ledger:
    """Of all pools."""

    def __init__(self, tables: ViewTables) -> None:
        self._tables = (tables.usage_accounts, tables.usage_sums)
        self._cached: OrderedDict[tuple[str, Key], Sums] = OrderedDict()
        self._labelled: dict[str, int] = {}

    def clear(self) -> None:
        """Forget what was read."""
        self._cached.clear()
        self._labelled.clear()

    def prepare(
        self,
        connection: Connection | None,
        pool: str,
        tally: Tally | None,
        agents: Iterable[Agent],
        events: Iterable[Event],
    ) -> Tally:
        """A tally for these events, or the one of those before them, with what they need.

        `connection` None: the pool has no rows yet.
        """
        if connection is None:
            self._labelled.setdefault(pool, 0)
            return tally or Tally(pool, {})
        known = {} if tally is None else tally.sums
        bodies = (event.body for event in events)
        keys = {POOL, *map(key_of, agents)}
        keys.update(key_of(body) for body in bodies if type(body) is AgentRequested)
        missing = keys - known.keys()
        cached = {key: self._cached[pool, key] for key in missing if (pool, key) in self._cached}
        known.update(cached)
        missing -= cached.keys()
        self._read(connection, pool, missing, known)
        if tally is None:
            tally = Tally(pool, known, self._labelled.get(pool, 0))
        labelled = [key for key in missing - known.keys() if key[2] != NO_LABELS]
        if labelled:
            if pool not in self._labelled:
                self._labelled[pool] = tally.labelled = self._count(connection, pool)
            if tally.labelled + len(labelled) > LABELLED_MAX:
                shared = {(role, project, OTHER_LABELS) for role, project, _ in labelled}
                self._read(connection, pool, shared - known.keys(), known)
        return tally

    def _read(
        self, connection: Connection, pool: str, keys: Collection[Key], known: dict[Key, Sums]
    ) -> None:
        by_number = {number_of(key): key for key in keys}
        names = [table.name for table in self._tables]
        for numbers in chunks(by_number, IDS_MAX):
            statement = _NEWEST.format(*names, ", ".join("?" * len(numbers)))
            for row in run(connection, statement, pool, *numbers):
                known[by_number[row.account]] = Sums(*row)

    def _count(self, connection: Connection, pool: str) -> int:
        accounts, _ = self._tables
        counted = run(connection, _LABELLED.format(accounts.name), pool, NO_LABELS, OTHER_LABELS)
        return int(counted.scalar_one())

    def start_from(
        self, connection: Connection, usage: Iterable[tuple[Account, Sequence[Sums]]]
    ) -> None:
        """Write what a pool had come to where its log was pruned."""
        accounts, sums = self._tables
        for account, rows in usage:
            write_rows(connection, accounts, Account.__struct_fields__, [astuple(account)], "skip")
            write_rows(connection, sums, NAMES, [*map(astuple, rows)], "renew")

    def write(
        self, connection: Connection, tally: Tally, before_ms: int, position: Position
    ) -> None:
        """Write what is new, and thin what has become old since an event at `before_ms`."""
        accounts, sums = self._tables
        opened, rows = [*map(astuple, tally.opened)], [*map(astuple, tally.rows.values())]
        write_rows(connection, accounts, Account.__struct_fields__, opened, "skip")
        write_rows(connection, sums, NAMES, rows, "renew")
        if before_ms // HOUR_MS == position.ts // HOUR_MS:
            return
        old, new = thinned_before(before_ms), thinned_before(position.ts)
        for (step, first), (_, end) in zip(old, new, strict=True):
            if first < end:
                statement = _THIN.format(accounts.name, sums.name, step)
                run(connection, statement, tally.pool, first, end, tally.pool)

    def remember(self, tally: Tally) -> None:
        """Once it is committed."""
        pool = tally.pool
        if pool in self._labelled:
            self._labelled[pool] = tally.labelled
        for key, sums in tally.sums.items():
            self._cached[pool, key] = sums
            self._cached.move_to_end((pool, key))
        while len(self._cached) > CACHE_MAX:
            self._cached.popitem(last=False)


def thinned(rows: Iterable[Sums], ts: int) -> Iterator[Sums]:
    """Rows of one account in their order, as they are stored once the log is at `ts`."""
    bounds = thinned_before(ts)
    for row, later in pairwise(chain(rows, [None])):
        assert row is not None
        steps = (step for step, before in bounds if row.minute < before)
        if later is None or not any(row.minute // step == later.minute // step for step in steps):
            yield row
