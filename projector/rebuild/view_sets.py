"""Two sets of views, and how the shadow set replaces the serving one.

Rows are copied into the serving tables, and tables are not renamed: what others built on them
(views, grants, dashboards) stays, and both databases let readers see the old rows until the commit.
Tables of another version get their columns in the same transaction (`migrate_serving`):
PostgreSQL's are altered, never dropped: a query whose snapshot is older than the switch would find
a new table empty, and what others built on a table would be dropped with it, or prevent that. An
SQLite snapshot still has the old tables, so there they are dropped and created.

One rebuild runs at a time, by a lease of its own.
"""

from collections.abc import Collection
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateColumn

from eventstore.errors import MusterError
from eventstore.keys import CATALOGUE
from projector.store import tables
from projector.store.database import Database
from projector.store.lease import Lease
from projector.store.usable import attempt

VIEWS_NAME: Final = "views"
_VERSION: Final = "SELECT version FROM {}view_versions WHERE name = ?"
_SET_VERSION: Final = (
    "INSERT INTO {}view_versions (name, version) VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET version = excluded.version"
)
_DROP_SHADOW: Final = [f"DROP TABLE IF EXISTS {{}}{table.name}" for table in tables.SHADOW.all()]
PREVIOUS_PREFIX: Final = "previous_"
"""Of tables in which earlier versions of Muster stored the replaced views, for a rollback."""


def read_version(connection: sa.Connection) -> int:
    """Of the views in the database; `INCOMPLETE` when some were found missing."""
    found = tables.run(connection, _VERSION, VIEWS_NAME).scalar()
    return found or tables.INCOMPLETE


def create_shadow(connection: sa.Connection) -> None:
    """Empty shadow tables, also where a rebuild that died left some.

    They have no defaults: every column is written, at the latest by the switch, and PostgreSQL
    creates and drops them in half the time.
    """
    created = (_creation(connection.dialect, table) for table in tables.SHADOW.all())
    tables.run_all(connection, (*_DROP_SHADOW, *created))


def _creation(dialect: sa.Dialect, table: sa.Table) -> str:
    quote = dialect.identifier_preparer.quote
    columns = [f"{quote(column.name)} {column.type.compile(dialect)}" for column in table.columns]
    keys = ", ".join(map(quote, table.primary_key.columns.keys()))
    return f"CREATE TABLE {{}}{table.name} ({', '.join(columns)}, PRIMARY KEY ({keys}))"


def copy_serving(connection: sa.Connection, pools: Collection[str]) -> None:
    """Copy the serving rows of these pools into the shadow set, as they are."""
    for name in ("checkpoints", "workers", "agents", "usage_accounts", "usage_sums"):
        old, new = getattr(tables.SERVING, name), getattr(tables.SHADOW, name)
        key = "pool" if name == "checkpoints" else "pool_name"
        _copy_rows(connection, old, new, f"{key} IN ({', '.join('?' * len(pools))})", *pools)
    if CATALOGUE in pools:
        for name in ("pools", "hosts", "tokens"):
            _copy_rows(connection, getattr(tables.SERVING, name), getattr(tables.SHADOW, name))


def switch(connection: sa.Connection, prefix: str, *, equal: bool) -> None:
    """Replace the serving rows by the shadow rows. `prefix` is that of the schema.

    `equal`: they are known to be, but for the checkpoints.
    """
    version = read_version(connection)
    _copy_heartbeat_ids(connection)
    if version != tables.VIEW_VERSION:
        _drop_previous(connection, prefix)
        migrate_serving(connection, prefix)
    pairs = list(zip(tables.SERVING.all(), tables.SHADOW.all(), strict=True))
    for old, new in pairs[:1] if equal else pairs:
        _replace_differing(connection, new, old)
    if version != tables.VIEW_VERSION:
        tables.run(connection, _SET_VERSION, VIEWS_NAME, tables.VIEW_VERSION)


def _copy_rows(
    connection: sa.Connection, source: sa.Table, target: sa.Table, where: str = "TRUE", *values: str
) -> None:
    names = ", ".join(map(connection.dialect.identifier_preparer.quote, source.columns.keys()))
    rows = f"SELECT {names} FROM {{}}{source.name} AS new WHERE {where}"
    tables.run(connection, f"INSERT INTO {{}}{target.name} ({names}) {rows}", *values)


def _replace_differing(connection: sa.Connection, source: sa.Table, target: sa.Table) -> None:
    """Give `target` the rows of `source`; equal ones, usually all, are not written."""
    same = tables.same_columns(connection, target, target.columns.keys())
    gone = f"NOT EXISTS (SELECT * FROM {{}}{source.name} AS new WHERE {same})"
    tables.run(connection, f"DELETE FROM {{}}{target.name} AS old WHERE {gone}")
    same_key = tables.same_columns(connection, target, target.primary_key.columns.keys())
    missing = f"NOT EXISTS (SELECT * FROM {{}}{target.name} AS old WHERE {same_key})"
    _copy_rows(connection, source, target, missing)


def _drop_previous(connection: sa.Connection, prefix: str) -> None:
    """Drop what earlier versions of Muster left behind, their rows of `view_versions` too."""
    for name in tables.VIEWS:
        connection.execute(sa.text(f"DROP TABLE IF EXISTS {prefix}{PREVIOUS_PREFIX}{name}"))
    connection.execute(
        sa.delete(tables.VIEW_VERSIONS).where(tables.VIEW_VERSIONS.c.name != VIEWS_NAME)
    )


def _copy_heartbeat_ids(connection: sa.Connection) -> None:
    """Heartbeats are not folded: the position up to which they were read stays."""
    serving = "SELECT heartbeat_id FROM {}checkpoints AS old WHERE old.pool = new.pool"
    change = f"UPDATE {{}}fresh_checkpoints AS new SET heartbeat_id = coalesce(({serving}), '')"
    tables.run(connection, change)


class RebuildInProgress(MusterError):
    """Another rebuild of these views is running."""


async def acquire_rebuild_lease(lease: Lease) -> None:
    """Raises `RebuildInProgress` while another process renews it."""
    try:
        await lease.acquire(timeout_seconds=lease.seconds * 1.5)
    except TimeoutError:
        raise RebuildInProgress from None


async def drop_abandoned_tables(lease: Lease) -> None:
    """Drop the tables of a rebuild that died; not those of one that still renews its lease."""
    try:
        await acquire_rebuild_lease(lease)
    except RebuildInProgress:
        return
    await drop_and_release(lease)


async def drop_and_release(lease: Lease) -> None:
    """`drop_and_release_in` a transaction of its own. Raises `Superseded`."""
    await lease.write(lambda connection: drop_and_release_in(connection, lease))


def drop_and_release_in(connection: sa.Connection, lease: Lease) -> None:
    """Drop the tables of a rebuild and release its lease."""
    tables.run_all(connection, _DROP_SHADOW)
    lease.release_in(connection)


LOCK_SECONDS: Final = 3
"""How long one slow reader may block the switch, and with it all later readers."""


class ViewsInUse(MusterError):
    """What others built on the views prevents that these get another version."""


async def require_replaceable(database: Database) -> None:
    """Try what the switch will do to the tables, and undo it: before all is folded for nothing.

    Raises `ViewsInUse`.
    """
    if not database.sqlite:
        await attempt(database, lambda c: _migrate_postgres(c, database.prefix, empty=False))


def migrate_serving(connection: sa.Connection, prefix: str) -> None:
    """Empty the serving tables and give them the columns of this version.

    A column whose type changes must get a new name. `prefix` is that of the schema. Raises
    `ViewsInUse`.
    """
    if connection.dialect.name != "sqlite":
        _migrate_postgres(connection, prefix, empty=True)
        return
    _drop_sql_views(connection, prefix)
    for name in tables.VIEWS:
        connection.execute(sa.text(f"DROP TABLE IF EXISTS {name}"))
    tables.METADATA.create_all(connection)
    for statement in tables.SQL_VIEWS.values():
        connection.execute(sa.text(statement.format(schema=prefix)))


def _drop_sql_views(connection: sa.Connection, prefix: str) -> None:
    for name in tables.SQL_VIEWS:
        connection.execute(sa.text(f"DROP VIEW IF EXISTS {prefix}{name}"))


def _migrate_postgres(connection: sa.Connection, prefix: str, *, empty: bool) -> None:
    """Our SQL views are only dropped where they cannot be replaced: others may build on them."""
    connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
    if empty:
        present = sa.inspect(connection).get_table_names(tables.SCHEMA)
        for table in tables.SERVING.all():
            if table.name in present:
                connection.execute(table.delete())
    for drop_view in (False, True):
        try:
            with connection.begin_nested():
                if drop_view:
                    _drop_sql_views(connection, prefix)
                _alter_all(connection, prefix, empty=empty)
                return
        except DBAPIError as error:
            if str(getattr(error.orig, "sqlstate", "")) not in _IN_THE_WAY:
                raise
            if drop_view or not any(name in str(error.orig) for name in tables.SQL_VIEWS):
                raise ViewsInUse(_dependents(error)) from error


_IN_THE_WAY: Final = ("2BP01", "42P16")
"""Other objects depend on it; the columns of a view would change."""


def _dependents(error: DBAPIError) -> str:
    diagnosis = getattr(error.orig, "diag", None)
    what = getattr(diagnosis, "message_primary", None) or str(error.orig)
    detail = getattr(diagnosis, "message_detail", None) or ""
    depending = "; ".join(detail.splitlines())
    return (
        f"the views cannot get their new version: {what} ({depending}): drop what depends on them,"
        " and create it again once they are built"
    )


def _alter_all(connection: sa.Connection, prefix: str, *, empty: bool) -> None:
    present = sa.inspect(connection).get_table_names(tables.SCHEMA)
    for table in tables.SERVING.all():
        if table.name in present:
            _alter(connection, table, empty=empty)
    tables.METADATA.create_all(connection)
    for statement in tables.SQL_VIEWS.values():
        view = statement.format(schema=prefix)
        connection.execute(sa.text(view.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1)))


def _alter(connection: sa.Connection, table: sa.Table, *, empty: bool) -> None:
    """A table with rows gets no column that must have a value: that is for a trial only."""
    found = sa.inspect(connection).get_columns(table.name, tables.SCHEMA)
    existing, expected = {column["name"] for column in found}, {c.name: c for c in table.columns}
    changes = [f'DROP COLUMN "{name}"' for name in sorted(existing - expected.keys())]
    for name in expected.keys() - existing:
        wanted = expected[name] if empty else sa.Column(name, expected[name].type)
        column = CreateColumn(wanted).compile(dialect=connection.dialect)
        changes.append(f"ADD COLUMN {column}")
    for change in changes:
        connection.execute(sa.text(f"ALTER TABLE {tables.SCHEMA}.{table.name} {change}"))
    for index in table.indexes:
        if empty:  # in the earlier version it may have had other columns
            index.drop(connection, checkfirst=True)
        index.create(connection, checkfirst=True)
