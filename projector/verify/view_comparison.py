"""Compares new views with the serving ones, row by row, where both are at the same position.

The database compares, row by row along the keys, so that any number of rows costs no memory. A
difference between views of one version is an error in one of them. Between two versions only the
columns that both have are compared, and a difference may be intended.
"""

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct

from eventstore.keys import CATALOGUE
from projector.store import tables
from projector.store.rows import Position
from projector.store.tables import INCOMPLETE, SERVING, SHADOW, VIEW_VERSION
from projector.verify.report import Difference

LISTED_MAX: Final = 20
"""Differences that are reported in full; all are counted."""


class Comparison(Struct, frozen=True):
    """The result. `pools` were compared ('' is the catalogue), `left_out` were not."""

    pools: tuple[str, ...] = ()
    left_out: Mapping[str, str] = {}
    """Why not, by pool."""
    version: int = VIEW_VERSION
    """Of the views that served."""
    rows: int = 0
    """Rows of the new views that were compared."""
    differing: int = 0
    """Rows that are in one set only, or differ."""
    differences: tuple[Difference, ...] = ()
    """The first ones, field by field: `expected` is new, `found` served."""

    @property
    def same_version(self) -> bool:
        return self.version == VIEW_VERSION

    @property
    def equal(self) -> bool:
        """Whether all was compared, and nothing differs."""
        return self.same_version and not self.left_out and not self.differing


def compare(
    connection: sa.Connection,
    existing: Mapping[str, Collection[str]],
    version: int,
    serving: Mapping[str, Position],
    shadow: Mapping[str, Position],
    skipped: Mapping[str, str],
) -> Comparison:
    """Compare the shadow views with the serving ones, which are of that `version`.

    `existing`: the columns of each table. `skipped`: pools that are not compared, and why.
    """
    left_out = {
        pool: why
        for pool in shadow
        if (why := skipped.get(pool) or _skip_reason(pool, version, serving, shadow))
    }
    rows = differing = 0
    differences: list[Difference] = []
    added = tables.ADDED_VIEWS if version != VIEW_VERSION else ()
    for pair in _table_pairs(connection, existing, left_out, added):
        rows_of_pair, differing_of_pair = pair.counts()
        rows, differing = rows + rows_of_pair, differing + differing_of_pair
        if differing_of_pair:
            differences += islice(pair.differences(), LISTED_MAX - len(differences))
    pools = tuple(pool for pool in shadow if pool not in left_out)
    return Comparison(pools, left_out, version, rows, differing, tuple(differences))


def _skip_reason(
    pool: str, version: int, serving: Mapping[str, Position], shadow: Mapping[str, Position]
) -> str:
    served, rebuilt = serving.get(pool), shadow[pool]
    if version == INCOMPLETE:
        return "the views that served were incomplete"
    if served is None:
        return "" if not rebuilt.seq else "it had no views before"
    if (served.generation, served.seq) != (rebuilt.generation, rebuilt.seq):
        return f"the views that served were at seq {served.seq}, the new ones at {rebuilt.seq}"
    return ""


def _table_pairs(
    connection: sa.Connection,
    existing: Mapping[str, Collection[str]],
    left_out: Collection[str],
    added: Collection[str],
) -> "Iterator[_TablePair]":
    """Of the tables that both have; `added`: those that were empty until now."""
    for old, new in zip(SERVING.all()[1:], SHADOW.all()[1:], strict=True):
        if old.name in added:
            continue
        keys = [key.name for key in old.primary_key]
        columns = [c.name for c in old.columns if c.name in existing.get(old.name, ())]
        if not set(keys) <= set(columns):
            continue  # of a version whose rows had other keys
        others = [name for name in columns if name not in keys]
        if old not in (SERVING.pools, SERVING.hosts, SERVING.tokens):
            yield _TablePair(connection, old, new, keys, others, list(left_out))
        elif CATALOGUE not in left_out:
            yield _TablePair(connection, old, new, keys, others, None)


class _TablePair(Struct):
    """A serving table and its shadow, with the columns that both have."""

    connection: sa.Connection
    old: sa.Table
    new: sa.Table
    keys: list[str]
    columns: list[str]
    """All but the keys."""
    left_out: list[str] | None
    """Pools whose rows are not compared; None: the rows are of no pool."""

    def counts(self) -> tuple[int, int]:
        """Of new rows, and of those that differ. Where none does, one join shows that."""
        new, old = f"{{}}{self.new.name} AS new", f"{{}}{self.old.name} AS old"
        same = tables.same_columns(self.connection, self.new, (*self.keys, *self.columns))
        rows = [
            f"(SELECT count(*) FROM {source} WHERE {self._compared(alias)})"
            for source, alias in (
                (new, "new"),
                (old, "old"),
                (f"{new} JOIN {old} ON {same}", "new"),
            )
        ]
        of_new, *others = self._run(f"SELECT {', '.join(rows)}", 3).one()
        if others == [of_new, of_new]:
            return of_new, 0
        differing = self._run(f"SELECT count(*) FROM ({self._differing()}) AS differing", 2)
        return of_new, differing.scalar_one()

    def _run(self, query: str, times: int) -> "sa.CursorResult[*tuple[Any, ...]]":
        """A query that excludes the pools that are not compared so many times."""
        return tables.run(self.connection, query, *times * (self.left_out or []))

    def _differing(self) -> str:
        """Keys of the rows that are in one set only, or with other values in the other."""
        same_key = tables.same_columns(self.connection, self.new, self.keys)
        same_rest = tables.same_columns(self.connection, self.new, self.columns)
        of_new, of_old = (", ".join(f"{s}.{k}" for k in self.keys) for s in ("new", "old"))
        key, new, old = self.keys[0], f"{{}}{self.new.name} AS new", f"{{}}{self.old.name} AS old"
        return (
            f"SELECT {of_new} FROM {new} LEFT JOIN {old} ON {same_key}"
            f" WHERE (old.{key} IS NULL OR NOT ({same_rest})) AND {self._compared('new')}"
            f" UNION ALL SELECT {of_old} FROM {old} LEFT JOIN {new} ON {same_key}"
            f" WHERE new.{key} IS NULL AND {self._compared('old')}"
        )

    def _compared(self, alias: str) -> str:
        """Without some pools: PostgreSQL expects few rows of those that are named."""
        if not self.left_out:
            return "TRUE"
        return f"{alias}.pool_name NOT IN ({', '.join('?' * len(self.left_out))})"

    def differences(self) -> Iterator[Difference]:
        """Of the first rows that differ, field by field."""
        first = f"ORDER BY {', '.join(self.keys)} LIMIT {LISTED_MAX}"
        query = f"SELECT * FROM ({self._differing()}) AS differing {first}"
        for row in self._run(query, 2).mappings().all():
            yield from self._field_differences(dict(row))

    def _field_differences(self, keys: dict[str, Any]) -> Iterator[Difference]:
        old, new = self._row(self.old, keys), self._row(self.new, keys)
        named = [str(keys[name]) for name in self.keys if name != "pool_name"]
        subject = "/".join([self.old.name, *(named or [keys[self.keys[0]]])])
        pool = CATALOGUE if self.left_out is None else keys["pool_name"]
        if old is None or new is None:
            presence = ("absent" if row is None else "present" for row in (new, old))
            yield Difference("views", pool, subject, "presence", *presence)
            return
        for name in self.columns:
            if old[name] != new[name]:
                yield Difference("views", pool, subject, name, str(new[name]), str(old[name]))

    def _row(self, table: sa.Table, keys: dict[str, Any]) -> sa.RowMapping | None:
        same_key = (table.c[name] == value for name, value in keys.items())
        query = sa.select(*(table.c[name] for name in (*self.keys, *self.columns)))
        return self.connection.execute(query.where(*same_key)).mappings().first()
