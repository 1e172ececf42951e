"""Two sets of views, and how the shadow set replaces the serving one.

Rows are copied into the serving tables, and tables are not renamed: what others built on them
(views, grants, dashboards) stays, and both databases let readers see the old rows until the commit.
Tables of another version get their columns in the same transaction (`store/migrations.py`).
"""

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, text, update

from projector.store.migrations import migrate_serving
from projector.store.tables import (
    INCOMPLETE,
    SERVING,
    SHADOW,
    SHADOW_METADATA,
    VIEW_VERSION,
    VIEW_VERSIONS,
    VIEWS,
)
from projector.store.upserts import insert_new

VIEWS_NAME: Final = "views"
PREVIOUS_PREFIX: Final = "previous_"
"""Of tables in which earlier versions of Muster stored the replaced views, for a rollback."""


def read_version(connection: Connection) -> int:
    """Of the views in the database; `INCOMPLETE` when some were found missing."""
    query = select(VIEW_VERSIONS.c.version).where(VIEW_VERSIONS.c.name == VIEWS_NAME)
    version: int | None = connection.execute(query).scalar()
    return version or INCOMPLETE


def create_shadow(connection: Connection) -> None:
    """Empty shadow tables, also where a rebuild that died left some."""
    drop_shadow(connection)
    SHADOW_METADATA.create_all(connection)


def drop_shadow(connection: Connection) -> None:
    SHADOW_METADATA.drop_all(connection)


def copy_serving(connection: Connection, pools: Collection[str]) -> None:
    """Copy the serving rows of these pools into the shadow set, as they are."""
    for old, new, key in (
        (SERVING.checkpoints, SHADOW.checkpoints, "pool"),
        (SERVING.workers, SHADOW.workers, "pool_name"),
        (SERVING.agents, SHADOW.agents, "pool_name"),
    ):
        names = [column.name for column in old.columns]
        query = select(*(old.c[name] for name in names)).where(old.c[key].in_(pools))
        connection.execute(insert(new).from_select(names, query))


def switch(connection: Connection, prefix: str) -> None:
    """Replace the serving rows by the shadow rows. `prefix` is that of the schema."""
    version = read_version(connection)
    _copy_heartbeat_ids(connection)
    _drop_previous(connection, prefix)
    if version in (VIEW_VERSION, INCOMPLETE):
        for old in SERVING.all():
            connection.execute(old.delete())
    else:
        migrate_serving(connection, prefix)
    for old, new in zip(SERVING.all(), SHADOW.all(), strict=True):
        names = [column.name for column in old.columns]
        query = select(*(new.c[name] for name in names))
        connection.execute(insert(old).from_select(names, query))
    row = {"name": VIEWS_NAME, "version": VIEW_VERSION}
    connection.execute(insert_new(connection, VIEW_VERSIONS), row)
    connection.execute(update(VIEW_VERSIONS).where(VIEW_VERSIONS.c.name == VIEWS_NAME).values(row))


def _drop_previous(connection: Connection, prefix: str) -> None:
    """Drop what earlier versions of Muster left behind, their rows of `view_versions` too."""
    for name in VIEWS:
        connection.execute(text(f"DROP TABLE IF EXISTS {prefix}{PREVIOUS_PREFIX}{name}"))
    connection.execute(delete(VIEW_VERSIONS).where(VIEW_VERSIONS.c.name != VIEWS_NAME))


def _copy_heartbeat_ids(connection: Connection) -> None:
    """Heartbeats are not folded: the position up to which they were read stays."""
    old, new = SERVING.checkpoints, SHADOW.checkpoints
    serving_id = select(old.c.heartbeat_id).where(old.c.pool == new.c.pool).scalar_subquery()
    connection.execute(update(new).values(heartbeat_id=func.coalesce(serving_id, "")))
