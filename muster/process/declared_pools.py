"""Applying the configuration file's pools to the catalogue.

A pool is created, or changed, only where the file differs from the file that was last applied. What
was changed live otherwise stays, and a pool that was deleted live is not created again by the same
file. What was last applied is stored with the catalogue, one field per pool. Every role applies the
file when it starts, with the same result whichever comes first. Where the catalogue was recovered,
what was applied last is not known: the file of the next start is assumed to be it, and the pools
stay as they are.
"""

from collections.abc import Mapping

import msgspec
import structlog

from eventstore.connection.calls import ask
from eventstore.keys import CATALOGUE
from eventstore.log.catalogue import UNKNOWN_DECLARATION, CatalogueLog
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.steps import clauses
from eventstore.steps.step import Origin
from muster.settings.settings import PoolDeclaration

log = structlog.get_logger("muster.declared_pools")
ORIGIN = Origin(actor="configuration")


async def apply(
    event_log: Log, catalogue: CatalogueLog, pools: Mapping[str, PoolDeclaration]
) -> None:
    """Bring the catalogue in line with the file, where the file has changed."""
    await catalogue.refresh()
    for name, declaration in pools.items():
        declared = msgspec.json.encode(
            {"role": declaration.role, **declaration.settings}, order="sorted"
        )
        field = f"declared:{name}"
        applied = await _applied(event_log, field)
        if applied == declared:
            continue
        if applied == UNKNOWN_DECLARATION.encode():
            log.warning("pool.declaration_assumed_applied", pool=name)
        else:
            await _apply(catalogue, name, declaration)
        step = event_log.step(CATALOGUE, ORIGIN)
        step.write(clauses.SetMeta(field, declared.decode()))
        await event_log.commit(step)


async def _apply(catalogue: CatalogueLog, name: str, declaration: PoolDeclaration) -> None:
    existing = catalogue.state.live_pools().get(name)
    if existing is None:
        changed = await catalogue.create_pool(name, declaration.role, declaration.config(), ORIGIN)
        if changed.outcome is Outcome.DONE:
            log.info("pool.created", pool=name)
    elif existing.role_type != declaration.role:
        log.warning(
            "pool.role_differs", pool=name, declared=declaration.role, actual=existing.role_type
        )
    else:
        changed = await catalogue.change_pool(name, declaration.config, ORIGIN)
        if changed.outcome is Outcome.DONE:
            log.info("pool.changed", pool=name)


async def _applied(event_log: Log, field: str) -> bytes | None:
    command = ("HGET", event_log.keys.catalogue_meta, field)
    doing = "what the file declared before cannot be read"
    value: bytes | None = await ask(event_log.client, *command, doing=doing)
    return value
