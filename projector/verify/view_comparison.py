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
from projector.store.tables import BESIDE, INCOMPLETE, SCHEMA, SERVING, VIEW_VERSION
from projector.verify.report import Difference

NAMED_MAX: Final = 20
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
    beside: Mapping[str, Position],
) -> Comparison:
    """Compare the fresh views with the serving ones, which are of that `version`."""
    left_out = {pool: why for pool in beside if (why := _why_not(pool, version, serving, beside))}
    pools = tuple(pool for pool in beside if pool not in left_out)
    rows = differing = 0
    found: list[Difference] = []
    for pair in _pairs(connection, pools):
        rows += pair.count(connection)
        differing += pair.count_differing(connection)
        found += pair.name(connection, NAMED_MAX - len(found))
    return Comparison(
        pools=pools,
        left_out=left_out,
        version=version,
        rows=rows,
        differing=differing,
        differences=tuple(found[:NAMED_MAX]),
    )


def _why_not(
    pool: str, version: int, serving: Mapping[str, Position], beside: Mapping[str, Position]
) -> str:
    there, here = serving.get(pool), beside[pool]
    if version == INCOMPLETE:
        return "the views that served were incomplete"
    if there is None:
        return "" if not here.seq else "it had no views before"
    if (there.generation, there.seq) != (here.generation, here.seq):
        return f"the views that served were at seq {there.seq}, the new ones at {here.seq}"
    return ""


def _pairs(connection: Connection, pools: Sequence[str]) -> "Iterator[_Pair]":
    named = [pool for pool in pools if pool != CATALOGUE]
    for old, new in zip(SERVING.all()[1:], BESIDE.all()[1:], strict=True):
        columns = _common(connection, old)
        if not {key.name for key in old.primary_key} <= columns:
            continue  # of a version whose rows had other keys
        if old in (SERVING.pools, SERVING.hosts):
            if CATALOGUE in pools:
                yield _Pair(old, new, columns, None)
        elif named:
            yield _Pair(old, new, columns, named)


def _common(connection: Connection, table: Table) -> set[str]:
    """The columns that the table has, of those that it should have."""
    schema = None if connection.dialect.name == "sqlite" else SCHEMA
    there = {column["name"] for column in inspect(connection).get_columns(table.name, schema)}
    return there & {column.name for column in table.columns}


class _Pair:
    """A serving table and the one beside it; `pools`: those whose rows are compared."""

    def __init__(
        self, old: Table, new: Table, columns: set[str], pools: Sequence[str] | None
    ) -> None:
        self._old, self._new, self._pools = old, new, pools
        self._keys = [key.name for key in old.primary_key]
        self._columns = sorted(columns - set(self._keys))
        self._same = and_(*(old.c[key] == new.c[key] for key in self._keys))

    def count(self, connection: Connection) -> int:
        chosen = select(func.count()).select_from(self._new).where(*self._chosen(self._new))
        return int(connection.execute(chosen).scalar_one())

    def count_differing(self, connection: Connection) -> int:
        return sum(
            int(connection.execute(select(func.count()).select_from(side.subquery())).scalar_one())
            for side in self._sides()
        )

    def name(self, connection: Connection, limit: int) -> list[Difference]:
        """The first differences, field by field."""
        found: list[Difference] = []
        for side in self._sides():
            if len(found) < limit:
                for keys in connection.execute(side.limit(limit)).mappings().all():
                    found += self._explain(connection, dict(keys))
        return found

    def _sides(self) -> tuple[Select[Any], Select[Any]]:
        """Keys of rows that are missing or differ, and of those that are too many."""
        old, new = self._old, self._new
        differ = or_(
            old.c[self._keys[0]].is_(None),
            *(new.c[name].is_distinct_from(old.c[name]) for name in self._columns),
        )
        changed = self._keys_of(new).join_from(new, old, self._same, isouter=True).where(differ)
        missing = new.c[self._keys[0]].is_(None)
        surplus = self._keys_of(old).join_from(old, new, self._same, isouter=True).where(missing)
        return changed.where(*self._chosen(new)), surplus.where(*self._chosen(old))

    def _keys_of(self, table: Table) -> Select[Any]:
        keys: list[Column[Any]] = [table.c[key] for key in self._keys]
        return select(*keys).order_by(*keys)

    def _chosen(self, table: Table) -> list[ColumnElement[bool]]:
        return [] if self._pools is None else [table.c.pool_name.in_(self._pools)]

    def _explain(self, connection: Connection, keys: dict[str, Any]) -> Iterator[Difference]:
        old, new = self._row(connection, self._old, keys), self._row(connection, self._new, keys)
        subject = f"{self._old.name}/{keys[self._keys[0]]}"
        pool = keys.get("pool_name", CATALOGUE) if self._pools is not None else CATALOGUE
        if old is None or new is None:
            told = ("absent" if new is None else "present", "absent" if old is None else "present")
            yield Difference("views", pool, subject, "presence", *told)
            return
        for name in self._columns:
            if old[name] != new[name]:
                yield Difference("views", pool, subject, name, str(new[name]), str(old[name]))

    def _row(
        self, connection: Connection, table: Table, keys: dict[str, Any]
    ) -> Mapping[str, Any] | None:
        chosen = select(*(table.c[name] for name in self._columns))
        chosen = chosen.where(*(table.c[name] == value for name, value in keys.items()))
        row = connection.execute(chosen).mappings().first()
        return dict(row) if row is not None else None
