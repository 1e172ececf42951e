"""Two sets of views side by side: when they are needed, and how one takes the other's place.

Rows are moved into the serving tables rather than tables renamed: what others built on them (views,
grants, dashboards) stays, and both databases let readers see the old rows until the commit. Only
views of another version are made anew, in that same transaction.
"""

from sqlalchemy import Connection, func, insert, select, text, update

from projector.rows import Position
from projector.source import archive_heads
from projector.tables import (
    BESIDE,
    FRESH_METADATA,
    INCOMPLETE,
    METADATA,
    POOL_CAPACITY,
    SERVING,
    VIEW_VERSION,
    VIEW_VERSIONS,
    VIEWS,
)


def read_version(connection: Connection) -> int:
    """Of the views in the database; `INCOMPLETE` when some were found missing."""
    version = connection.execute(select(VIEW_VERSIONS.c.version)).scalar()
    return INCOMPLETE if version is None else int(version)


def needs_rebuild(connection: Connection, positions: dict[str, Position]) -> bool:
    """Whether views cannot go on from their checkpoints: of another version, behind the archive."""
    if read_version(connection) != VIEW_VERSION:
        return True
    return any(
        (head.generation, head.seq) > (at.generation, at.seq)
        for pool, head in archive_heads(connection).items()
        for at in (positions.get(pool, Position(pool)),)
    )


def make_fresh(connection: Connection) -> None:
    FRESH_METADATA.create_all(connection)


def drop_fresh(connection: Connection) -> None:
    FRESH_METADATA.drop_all(connection)


def switch(connection: Connection, prefix: str) -> None:
    """Put the fresh rows in the place of the serving ones. `prefix` is that of the schema."""
    _carry_over(connection)
    if read_version(connection) in (VIEW_VERSION, INCOMPLETE):
        for old in SERVING.all():
            connection.execute(old.delete())
    else:
        _replace_definitions(connection, prefix)
    for old, new in zip(SERVING.all(), BESIDE.all(), strict=True):
        names = [column.name for column in old.columns]
        chosen = select(*(new.c[name] for name in names))
        connection.execute(insert(old).from_select(names, chosen))
    connection.execute(update(VIEW_VERSIONS).values(version=VIEW_VERSION))


def _carry_over(connection: Connection) -> None:
    """Heartbeats are no fold: how far they were read stays as it is."""
    old, new = SERVING.checkpoints, BESIDE.checkpoints
    known = select(old.c.heartbeat_id).where(old.c.pool == new.c.pool).scalar_subquery()
    connection.execute(update(new).values(heartbeat_id=func.coalesce(known, "")))


def _replace_definitions(connection: Connection, prefix: str) -> None:
    connection.execute(text(f"DROP VIEW IF EXISTS {prefix}pool_capacity"))
    for name in VIEWS:
        connection.execute(text(f"DROP TABLE IF EXISTS {prefix}{name}"))
    METADATA.create_all(connection)
    connection.execute(text(POOL_CAPACITY.format(schema=prefix)))
