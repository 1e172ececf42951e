"""New views against those that serve, row by row, where both are at the same position.

The database does the comparing, along the keys of both sets, so that any number of rows costs no
memory here. What differs between views of one version was wrong in one of them; between two
versions only the columns that both have are compared, and a difference may be what was intended.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    func,
    inspect,
    or_,
    select,
)

from eventstore.keys import CATALOGUE
from projector.store.rows import Position
from projector.store.tables import INCOMPLETE, SCHEMA, SERVING, SHADOW, VIEW_VERSION
from projector.verify.report import Difference

LISTED_MAX: Final = 20
"""Differences that are told in full; all are counted."""


class Comparison(Struct, frozen=True, kw_only=True):
    """What came of it. `pools` were compared ('' is the catalogue), `left_out` were not."""

    pools: tuple[str, ...] = ()
    left_out: Mapping[str, str] = {}
    """Why not, by pool."""
    version: int = VIEW_VERSION
    """Of the views that served."""
    rows: int = 0
    """Rows of the new views that were compared."""
    differing: int = 0
    """Rows that stand in one set only, or differ."""
    differences: tuple[Difference, ...] = ()
    """The first ones, field by field: `expected` is new, `found` served."""

    @property
    def same_version(self) -> bool:
        return self.version == VIEW_VERSION


def compare(
    connection: Connection,
    version: int,
    serving: Mapping[str, Position],
    shadow: Mapping[str, Position],
) -> Comparison:
    """Compare the fresh views with the serving ones, which are of that `version`."""
    left_out = {
        pool: why for pool in shadow if (why := _skip_reason(pool, version, serving, shadow))
    }
    pools = tuple(pool for pool in shadow if pool not in left_out)
    rows = differing = 0
    found: list[Difference] = []
    for pair in _table_pairs(connection, pools):
        rows += pair.count(connection)
        differing += pair.count_differing(connection)
        found += pair.differences(connection, LISTED_MAX - len(found))
    return Comparison(
        pools=pools,
        left_out=left_out,
        version=version,
        rows=rows,
        differing=differing,
        differences=tuple(found[:LISTED_MAX]),
    )


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


def _table_pairs(connection: Connection, pools: Sequence[str]) -> "Iterator[_TablePair]":
    pool_names = [pool for pool in pools if pool != CATALOGUE]
    for old, new in zip(SERVING.all()[1:], SHADOW.all()[1:], strict=True):
        columns = _common_columns(connection, old)
        if not {key.name for key in old.primary_key} <= columns:
            continue  # of a version whose rows had other keys
        if old in (SERVING.pools, SERVING.hosts):
            if CATALOGUE in pools:
                yield _TablePair(old, new, columns, None)
        elif pool_names:
            yield _TablePair(old, new, columns, pool_names)


def _common_columns(connection: Connection, table: Table) -> set[str]:
    """The columns that the table has, of those that it should have."""
    schema = None if connection.dialect.name == "sqlite" else SCHEMA
    existing = {column["name"] for column in inspect(connection).get_columns(table.name, schema)}
    return existing & {column.name for column in table.columns}


class _TablePair:
    """A serving table and the one beside it; `pools`: those whose rows are compared."""

    def __init__(
        self, old: Table, new: Table, columns: set[str], pools: Sequence[str] | None
    ) -> None:
        self._old, self._new, self._pools = old, new, pools
        self._keys = [key.name for key in old.primary_key]
        self._columns = sorted(columns - set(self._keys))
        self._same_keys = and_(*(old.c[key] == new.c[key] for key in self._keys))

    def count(self, connection: Connection) -> int:
        query = select(func.count()).select_from(self._new).where(*self._conditions(self._new))
        return int(connection.execute(query).scalar_one())

    def count_differing(self, connection: Connection) -> int:
        return sum(
            int(connection.execute(select(func.count()).select_from(side.subquery())).scalar_one())
            for side in self._difference_queries()
        )

    def differences(self, connection: Connection, limit: int) -> list[Difference]:
        """The first differences, field by field."""
        found: list[Difference] = []
        for query in self._difference_queries():
            if len(found) < limit:
                for keys in connection.execute(query.limit(limit)).mappings().all():
                    found += self._field_differences(connection, dict(keys))
        return found

    def _difference_queries(self) -> tuple[Select[Any], Select[Any]]:
        """Keys of rows that are missing or differ, and of those that are too many."""
        old, new = self._old, self._new
        differ = or_(
            old.c[self._keys[0]].is_(None),
            *(new.c[name].is_distinct_from(old.c[name]) for name in self._columns),
        )
        changed = (
            self._select_keys(new).join_from(new, old, self._same_keys, isouter=True).where(differ)
        )
        missing = new.c[self._keys[0]].is_(None)
        surplus = (
            self._select_keys(old).join_from(old, new, self._same_keys, isouter=True).where(missing)
        )
        return changed.where(*self._conditions(new)), surplus.where(*self._conditions(old))

    def _select_keys(self, table: Table) -> Select[Any]:
        keys: list[Column[Any]] = [table.c[key] for key in self._keys]
        return select(*keys).order_by(*keys)

    def _conditions(self, table: Table) -> list[ColumnElement[bool]]:
        return [] if self._pools is None else [table.c.pool_name.in_(self._pools)]

    def _field_differences(
        self, connection: Connection, keys: dict[str, Any]
    ) -> Iterator[Difference]:
        old, new = self._row(connection, self._old, keys), self._row(connection, self._new, keys)
        subject = f"{self._old.name}/{keys[self._keys[0]]}"
        pool = keys.get("pool_name", CATALOGUE) if self._pools is not None else CATALOGUE
        if old is None or new is None:
            presence = (
                "absent" if new is None else "present",
                "absent" if old is None else "present",
            )
            yield Difference("views", pool, subject, "presence", *presence)
            return
        for name in self._columns:
            if old[name] != new[name]:
                yield Difference("views", pool, subject, name, str(new[name]), str(old[name]))

    def _row(
        self, connection: Connection, table: Table, keys: dict[str, Any]
    ) -> Mapping[str, Any] | None:
        query = select(*(table.c[name] for name in self._columns))
        query = query.where(*(table.c[name] == value for name, value in keys.items()))
        row = connection.execute(query).mappings().first()
        return dict(row) if row is not None else None
