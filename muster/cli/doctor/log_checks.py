"""Checks of the logs: are all intact, and do the views follow them? Nothing is changed.

The archive says which logs must exist, so this needs Redis and the database.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from eventstore.errors import LogError
from eventstore.keys import CATALOGUE as CATALOGUE_LOG
from muster.cli.doctor.checks import Check, Level, check
from muster.cli.events.lines import CATALOGUE

if TYPE_CHECKING:
    from projector.fold.projection import Projection
    from projector.intake.source import Source
    from projector.store.database import Database
    from projector.store.rows import Position

AREA = "log"
RECHECK_SECONDS: Final = 1.5
"""Within this time a running projector has applied some of the missing events."""


async def check_logs(
    redis_url: str, key_prefix: str, database_url: str, roles: Collection[str] | None = None
) -> list[Check]:
    """All checks of the logs that are in the views; none where no projector has run yet.

    `roles`: those declared here; None: not known.
    """
    from projector.intake.source import Addresses, opened
    from projector.store.database import DatabaseError
    from projector.store.engines import missing_file

    if missing_file(database_url):
        return []
    of = Addresses(redis_url=redis_url, key_prefix=key_prefix, database_url=database_url)
    try:
        async with opened(of, prepare=False) as (database, source):
            found = await _examine(database, source)
            return found if roles is None else [*found, *await _undeclared(database, roles)]
    except DatabaseError:
        return []  # no tables yet, or unreachable, which the checks of the database report
    except LogError as error:
        return [Check(AREA, "readable", Level.FAIL, str(error), "see `muster verify`")]


async def _undeclared(database: "Database", roles: Collection[str]) -> list[Check]:
    """Pools whose agents cannot be run by what is declared here."""
    from sqlalchemy import select

    from projector.store.tables import SERVING

    p = SERVING.pools
    query = select(p.c.pool_name, p.c.role_type).where(~p.c.deleted).order_by(p.c.pool_name)
    pools = await database.read(lambda connection: list(connection.execute(query)))
    declared = f"declared: {', '.join(sorted(roles)) or 'none'}"
    change = "declare it in muster.toml, or delete the pool: until then its agents wait"
    return [
        _check(pool, f"its role {role!r} is not declared here ({declared})", change)
        for pool, role in pools
        if role not in roles
    ]


async def _examine(database: "Database", source: "Source") -> list[Check]:
    from projector.fold.projection import Projection, stopped
    from projector.recovery.damage_scan import find_damage
    from projector.store.tables import SERVING

    projection = Projection(SERVING, archives=False)
    await database.read(projection.load)
    damage = await find_damage(source, database, projection)
    positions = dict(projection.positions)
    change = "restore its data if you can; else `muster recover`"
    checks = [_check(pool, reason, change, Level.FAIL) for pool, reason in damage.items()]
    intact = [at for at in positions.values() if at.pool not in damage]
    change = "its views stop until it is repaired: run the version that wrote it, or a newer one"
    checks += [
        _check(at.pool, f"its views stopped: {at.status}", change, Level.FAIL)
        for at in intact
        if stopped(at)
    ]
    following = [at for at in intact if not stopped(at)]
    checks += await _behind(database, source, projection, following)
    if not checks and positions[CATALOGUE_LOG].generation:
        checks.append(check(AREA, "logs", f"{len(positions)} are intact, and the views follow"))
    return checks


async def _behind(
    database: "Database",
    source: "Source",
    projection: "Projection",
    positions: "Sequence[Position]",
) -> list[Check]:
    """Whether the views follow the logs; checked twice where they lag behind."""
    heads = await source.heads([at.pool for at in positions])
    behind = [at for at in positions if heads[at.pool].seq > at.seq]
    if behind:
        await asyncio.sleep(RECHECK_SECONDS)
        await database.read(projection.load)
    now = projection.positions
    change = "start a projector (or `muster up`); where one runs, its log and /readyz say why"
    return [
        _check(at.pool, f"the views end at seq {at.seq} of {heads[at.pool].seq}", change)
        for at in behind
        if at.pool not in now or now[at.pool].seq == at.seq
    ]


def _check(pool: str, found: str, change: str, level: Level = Level.WARN) -> Check:
    return Check(AREA, pool or CATALOGUE, level, found, change)
