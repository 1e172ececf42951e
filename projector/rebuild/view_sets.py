"""Sets of views side by side: when they are needed, and how one takes the other's place.

Rows are moved into the serving tables rather than tables renamed: what others built on them (views,
grants, dashboards) stays, and both databases let readers see the old rows until the commit. The
tables of another version get their columns in that same transaction (`store/migrations.py`).

What served until then is kept as it was, columns and checkpoints included, in `previous_…`, until
the next switch. To roll back is to switch to those: what served becomes the previous set in turn.
"""

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, text, update

from eventstore.errors import MusterError
from projector.fold.projection import read_positions
from projector.intake.source import archive_heads
from projector.store.migrations import migrate_serving
from projector.store.rows import Position
from projector.store.tables import (
    INCOMPLETE,
    PREVIOUS_PREFIX,
    SERVING,
    SHADOW,
    SHADOW_METADATA,
    SHADOW_PREFIX,
    VIEW_VERSION,
    VIEW_VERSIONS,
    VIEWS,
)
from projector.store.upserts import insert_new

VIEWS_NAME: Final = "views"
PREVIOUS_NAME: Final = "previous"
ROLLED_BACK_NAME: Final = "rolled_back"
"""Stands there until the projector has folded from the archive what the serving views lack."""


class CannotRollBack(MusterError):
    """There are no previous views that this version of Muster can put back."""


def read_version(connection: Connection) -> int:
    """Of the views in the database; `INCOMPLETE` when some were found missing."""
    return _version(connection, VIEWS_NAME) or INCOMPLETE


def previous_version(connection: Connection) -> int | None:
    """Of the views that served before; None if none are kept."""
    return _version(connection, PREVIOUS_NAME)


def rolled_back(connection: Connection) -> bool:
    """Whether views that were put back have still to be folded on from the archive."""
    return _version(connection, ROLLED_BACK_NAME) is not None


def _version(connection: Connection, name: str) -> int | None:
    query = select(VIEW_VERSIONS.c.version).where(VIEW_VERSIONS.c.name == name)
    version: int | None = connection.execute(query).scalar()
    return version


def _set_version(connection: Connection, name: str, version: int) -> None:
    of_name = VIEW_VERSIONS.c.name == name
    connection.execute(insert_new(connection, VIEW_VERSIONS), {"name": name, "version": version})
    connection.execute(update(VIEW_VERSIONS).where(of_name).values(version=version))


def delete_version(connection: Connection, name: str) -> None:
    connection.execute(delete(VIEW_VERSIONS).where(VIEW_VERSIONS.c.name == name))


def allow_catch_up(connection: Connection) -> None:
    """Before more is archived than the views that serve have: they can be folded on to it.

    Otherwise they would be built anew, also where that was refused because it makes less of them.
    """
    if not behind_archive(connection, read_positions(connection, SERVING)):
        _set_version(connection, ROLLED_BACK_NAME, VIEW_VERSION)


def needs_rebuild(connection: Connection, positions: dict[str, Position]) -> bool:
    """Whether views cannot go on from their checkpoints: of another version, behind the archive."""
    if read_version(connection) != VIEW_VERSION:
        return True
    return behind_archive(connection, positions) and not rolled_back(connection)


def behind_archive(connection: Connection, positions: dict[str, Position]) -> bool:
    """Whether the archive has events that the views have not."""
    return any(
        (head.generation, head.seq) > (at.generation, at.seq)
        for pool, head in archive_heads(connection).items()
        for at in (positions.get(pool, Position(pool)),)
    )


def create_shadow(connection: Connection) -> None:
    SHADOW_METADATA.create_all(connection)


def drop_shadow(connection: Connection) -> None:
    SHADOW_METADATA.drop_all(connection)


def copy_serving(connection: Connection, pools: Collection[str]) -> None:
    """Take what serves of these pools into the fresh set, as it is."""
    for old, new, key in (
        (SERVING.checkpoints, SHADOW.checkpoints, "pool"),
        (SERVING.workers, SHADOW.workers, "pool_name"),
        (SERVING.agents, SHADOW.agents, "pool_name"),
    ):
        names = [column.name for column in old.columns]
        query = select(*(old.c[name] for name in names)).where(old.c[key].in_(pools))
        connection.execute(insert(new).from_select(names, query))


def discard_previous(connection: Connection, prefix: str) -> None:
    """Drop what is kept for a rollback. `prefix` is that of the schema."""
    for name in VIEWS:
        connection.execute(text(f"DROP TABLE IF EXISTS {prefix}{PREVIOUS_PREFIX}{name}"))
    delete_version(connection, PREVIOUS_NAME)


def switch(connection: Connection, prefix: str) -> None:
    """Put the fresh rows in the place of the serving ones. `prefix` is that of the schema."""
    version = read_version(connection)
    _copy_heartbeat_ids(connection)
    if version != INCOMPLETE:
        _save_previous(connection, prefix, version)
    if version in (VIEW_VERSION, INCOMPLETE):
        for old in SERVING.all():
            connection.execute(old.delete())
    else:
        migrate_serving(connection, prefix)
    for old, new in zip(SERVING.all(), SHADOW.all(), strict=True):
        names = [column.name for column in old.columns]
        query = select(*(new.c[name] for name in names))
        connection.execute(insert(old).from_select(names, query))
    _set_version(connection, VIEWS_NAME, VIEW_VERSION)
    delete_version(connection, ROLLED_BACK_NAME)


def restore_previous(connection: Connection, prefix: str) -> None:
    """Let the previous views serve again, and keep those that served. Raises `CannotRollBack`."""
    version = previous_version(connection)
    if version is None:
        raise CannotRollBack("no previous views are kept: there was no rebuild since")
    if version != VIEW_VERSION:
        raise CannotRollBack(
            f"the previous views are of version {version}, this Muster builds version"
            f" {VIEW_VERSION}: roll back with the Muster that built them"
        )
    drop_shadow(connection)
    for name in VIEWS:
        shadow, previous = f"{SHADOW_PREFIX}{name}", f"{prefix}{PREVIOUS_PREFIX}{name}"
        connection.execute(text(f"ALTER TABLE {previous} RENAME TO {shadow}"))
    delete_version(connection, PREVIOUS_NAME)
    switch(connection, prefix)
    drop_shadow(connection)
    _set_version(connection, ROLLED_BACK_NAME, VIEW_VERSION)


def _save_previous(connection: Connection, prefix: str, version: int) -> None:
    """Views that nothing was ever folded into are not worth it."""
    if not connection.execute(select(func.count()).select_from(SERVING.checkpoints)).scalar():
        return
    discard_previous(connection, prefix)
    for name in VIEWS:
        previous, serving = f"{prefix}{PREVIOUS_PREFIX}{name}", f"{prefix}{name}"
        connection.execute(text(f"CREATE TABLE {previous} AS SELECT * FROM {serving}"))
    _set_version(connection, PREVIOUS_NAME, version)


def _copy_heartbeat_ids(connection: Connection) -> None:
    """Heartbeats are no fold: how far they were read stays as it is."""
    old, new = SERVING.checkpoints, SHADOW.checkpoints
    serving_id = select(old.c.heartbeat_id).where(old.c.pool == new.c.pool).scalar_subquery()
    connection.execute(update(new).values(heartbeat_id=func.coalesce(serving_id, "")))
