"""Compares new views with the serving ones, row by row, where both are at the same position.

The database compares, row by row along the keys, so that any number of rows costs no memory. A
difference between views of one version is an error in one of them. Between two versions only the
columns that both have are compared, and a difference may be intended.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct

from eventstore.keys import CATALOGUE
from projector.store import tables
from projector.store.rows import Position
from projector.store.tables import INCOMPLETE, SCHEMA, SERVING, SHADOW, VIEW_VERSION
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


def compare(
    connection: sa.Connection,
    version: int,
    serving: Mapping[str, Position],
    shadow: Mapping[str, Position],
    skipped: Mapping[str, str],
) -> Comparison:
    """Compare the shadow views with the serving ones, which are of that `version`.

    `skipped`: pools that are not compared, and why.
    """
    left_out = {
        pool: why
        for pool in shadow
        if (why := skipped.get(pool) or _skip_reason(pool, version, serving, shadow))
    }
    pools = tuple(pool for pool in shadow if pool not in left_out)
    rows = differing = 0
    differences: list[Difference] = []
    for pair in _table_pairs(connection, pools):
        rows += pair.count(pair.rows(pair.new))
        if count := pair.count(pair.differing_keys()):
            differing += count
            differences += islice(pair.differences(), LISTED_MAX - len(differences))
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


def _table_pairs(connection: sa.Connection, pools: Sequence[str]) -> "Iterator[_TablePair]":
    pool_names = [pool for pool in pools if pool != CATALOGUE]
    schema = None if connection.dialect.name == "sqlite" else SCHEMA
    for old, new in zip(SERVING.all()[1:], SHADOW.all()[1:], strict=True):
        existing = {col["name"] for col in sa.inspect(connection).get_columns(old.name, schema)}
        keys = [key.name for key in old.primary_key]
        columns = sorted((existing & {column.name for column in old.columns}) - set(keys))
        if not existing.issuperset(keys):
            continue  # of a version whose rows had other keys
        if old in (SERVING.pools, SERVING.hosts):
            if CATALOGUE in pools:
                yield _TablePair(connection, old, new, keys, columns, None)
        elif pool_names:
            yield _TablePair(connection, old, new, keys, columns, pool_names)


class _TablePair(Struct):
    """A serving table and its shadow, with the columns that both have."""

    connection: sa.Connection
    old: sa.Table
    new: sa.Table
    keys: list[str]
    columns: list[str]
    """All but the keys."""
    pools: list[str] | None
    """Those whose rows are compared; None: all rows."""

    def count(self, query: sa.Select[Any] | sa.CompoundSelect[Any]) -> int:
        counted = sa.select(sa.func.count()).select_from(query.subquery())
        return int(self.connection.execute(counted).scalar_one())

    def rows(self, table: sa.Table) -> sa.Select[Any]:
        return self._of_pools(
            sa.select(*(table.c[name] for name in (*self.keys, *self.columns))), table
        )

    def differing_keys(self) -> sa.CompoundSelect[Any]:
        """Keys of the rows that are in one set only, or with other values in the other."""
        same_key = tables.same_columns(self.old, self.new, self.keys)
        same_rest = tables.same_columns(self.old, self.new, self.columns)

        def keys_of(
            table: sa.Table, other: sa.Table, *where: sa.ColumnElement[bool]
        ) -> sa.Select[Any]:
            keys = sa.select(*(table.c[key] for key in self.keys))
            return self._of_pools(
                keys.join_from(table, other, same_key, isouter=True), table
            ).where(*where)

        missing = self.new.c[self.keys[0]].is_(None)
        added_or_changed = self.old.c[self.keys[0]].is_(None) | sa.not_(same_rest)
        return sa.union_all(
            keys_of(self.new, self.old, added_or_changed), keys_of(self.old, self.new, missing)
        )

    def _of_pools(self, query: sa.Select[Any], table: sa.Table) -> sa.Select[Any]:
        return query if self.pools is None else query.where(table.c.pool_name.in_(self.pools))

    def differences(self) -> Iterator[Difference]:
        """Of the first rows that differ, field by field."""
        keys = self.differing_keys().subquery()
        query = sa.select(keys).order_by(*keys.c).limit(LISTED_MAX)
        for row in self.connection.execute(query).mappings().all():
            yield from self._field_differences(dict(row))

    def _field_differences(self, keys: dict[str, Any]) -> Iterator[Difference]:
        old, new = self._row(self.old, keys), self._row(self.new, keys)
        subject = f"{self.old.name}/{keys[self.keys[0]]}"
        pool = CATALOGUE if self.pools is None else keys["pool_name"]
        if old is None or new is None:
            presence = ("absent" if row is None else "present" for row in (new, old))
            yield Difference("views", pool, subject, "presence", *presence)
            return
        for name in self.columns:
            if old[name] != new[name]:
                yield Difference("views", pool, subject, name, str(new[name]), str(old[name]))

    def _row(self, table: sa.Table, keys: dict[str, Any]) -> sa.RowMapping | None:
        same_key = (table.c[name] == value for name, value in keys.items())
        return self.connection.execute(self.rows(table).where(*same_key)).mappings().first()
