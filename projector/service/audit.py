"""Whether the logs in Redis are still those that were projected."""

from collections.abc import Iterable, Mapping

from projector.fold.projection import stopped
from projector.intake.entries import OK
from projector.intake.source import Source, describe_damage, rewritten
from projector.store.database import Database
from projector.store.rows import Position


async def statuses(
    source: Source, database: Database, positions: Mapping[str, Position], *, thorough: bool
) -> dict[str, str]:
    """By pool: `ok`, or why its log cannot be projected further.

    `thorough`: also of stopped pools, and whether the last projected event is still there.
    """
    watched = {
        pool: at
        for pool, at in positions.items()
        if at.generation and (thorough or not stopped(at))
    }
    intact = await source.intact(watched)
    found = {
        pool: describe_damage(watched[pool], head, intact=intact[pool]) or OK
        for pool, head in (await source.heads(watched)).items()
    }
    if thorough:
        healthy = [watched[pool] for pool, status in found.items() if status == OK]
        found |= await rewritten_logs(source, database, healthy)
    return found


async def rewritten_logs(
    source: Source, database: Database, positions: Iterable[Position]
) -> dict[str, str]:
    """Logs that have another event at the last projected position, and the reason."""
    found = {at.pool: await rewritten(source, database, at) for at in positions}
    return {pool: reason for pool, reason in found.items() if reason}
