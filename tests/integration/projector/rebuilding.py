"""Rebuilds for tests, and the tables that they leave."""

from projector.rebuild.rebuild import Progress, RebuildOptions, replay
from tests.integration.projector.stage import Stage


async def replayed(stage: Stage, batch: int = 20, *, lease_seconds: float = 2.0) -> list[Progress]:
    reported: list[Progress] = []
    options = RebuildOptions(
        redis_url=stage.redis_url,
        database_url=stage.database_url,
        batch=batch,
        lease_seconds=lease_seconds,
    )
    done = await replay(options, reported.append)
    assert done == reported[-1]
    return reported


async def tables_of(stage: Stage) -> set[str]:
    return set(await stage.database.read(stage.database.existing))


async def other_tables(stage: Stage) -> set[str]:
    """The tables other than the serving ones."""
    return {name for name in await tables_of(stage) if name.startswith(("fresh_", "previous_"))}
