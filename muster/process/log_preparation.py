"""Prepares the log before anything uses it: the server fits, the log exists, pools are declared.

A pool is created, or changed, only where the file differs from the file that was last applied. What
was changed live otherwise stays, and a pool that was deleted live is not created again by the same
file. What was last applied is stored with the catalogue, one field per pool. Every role applies the
file when it starts, with the same result whichever comes first. Where the catalogue was recovered,
what was applied last is not known: the file of the next start is assumed to be it, and the pools
stay as they are.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import structlog

from eventstore import errors
from eventstore.connection.calls import ask
from eventstore.connection.clients import Client
from eventstore.connection.requirements import inspect, require_suitable
from eventstore.keys import CATALOGUE, Keys
from eventstore.log.catalogue import UNKNOWN_DECLARATION, CatalogueLog
from eventstore.log.key_names import rename_old_keys
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.log.replies import Outcome
from eventstore.steps import clauses
from eventstore.steps.step import Origin
from muster.process.database_check import database_problem, database_problem_in_child
from muster.settings.addresses import redacted
from muster.settings.settings import PoolDeclaration, Settings

log = structlog.get_logger("muster")

DATABASE_RETRY_SECONDS: Final = 0.5
ORIGIN: Final = Origin(actor="configuration")


async def prepare(
    settings: Settings, role: str = "up", echo: Callable[[str], None] | None = None
) -> bool:
    """Check the server and apply the declared pools; False where the log was lost.

    A log is created only where the archive shows that there never was one: so this waits for the
    database, and `echo` prints that. Raises `MusterError`, such as `ConfigurationError` for a
    database that cannot be used, however long one waits.
    """
    problem = ""
    if role == "up" and not settings.single_process:
        problem = await database_problem_in_child(settings)
    elif role != "supervisor":
        problem = await database_problem(settings, only_read=role == "gateway")
    if problem:
        log.warning("role.database_unreachable", error=problem)
        if echo is not None:
            echo(f"{problem}; the projector waits for it")
    client = Client(settings.redis_url)
    reader = Reader(settings.redis_url)
    try:
        require_suitable(await inspect(client))
        event_log = Log(client, Keys(settings.key_prefix), retention=settings.retention)
        await rename_old_keys(client, event_log.keys)
        catalogue = CatalogueLog(event_log, reader)
        if not (await event_log.head(CATALOGUE)).generation:
            if role == "supervisor":
                return True  # it waits for the catalogue itself
            archived = await _is_archived(settings, echo)  # another role may create it meanwhile
            if archived and not (await event_log.head(CATALOGUE)).generation:
                log.error("log.lost", pool="", reason="Redis is empty, the archive is not")
                return False
            await catalogue.create()
        await catalogue.start()
        await apply_pools(event_log, catalogue, settings.pools)
    except (errors.Halted, errors.LogMissing, errors.RolledBack) as error:
        log.error("log.lost", pool=error.pool, reason=str(error))
        return False
    except (errors.LogUnreachable, errors.ServerUnsuitable) as error:
        # `Recovered` is not made of a text.
        known = errors.LogUnreachable if isinstance(error, errors.Recovered) else type(error)
        raise known(f"{settings.redis_named}: {error}") from None
    finally:
        await reader.close()
        await client.aclose()
    return True


async def _is_archived(settings: Settings, echo: Callable[[str], None] | None) -> bool:
    """Whether the archive knows a log. Waits for the database: only it can tell."""
    if settings.views_missing:
        return False
    from projector.queries.views import DatabaseError
    from projector.recovery.damage_scan import archive_exists
    from projector.store.failures import Kind, kind, reason

    reported, database = "", redacted(settings.views_url)
    while True:
        try:
            return await archive_exists(settings.views_url)
        except (DatabaseError, OSError) as error:
            why = reason(error)
            if kind(error) is Kind.DAMAGED:
                raise errors.ConfigurationError(
                    f"Redis is empty, and {database}, which could tell whether it always was, is"
                    f" damaged: {why}; to start with nothing, move that file away"
                ) from None
            if why != reported:
                log.warning("role.waits_for_database", error=why)
                if echo is not None:
                    echo(f"{database}: {why}; waiting for it, since Redis is empty")
                reported = why
            await asyncio.sleep(DATABASE_RETRY_SECONDS)


async def apply_pools(
    event_log: Log, catalogue: CatalogueLog, pools: Mapping[str, PoolDeclaration]
) -> None:
    """Bring the catalogue in line with the file, where the file has changed."""
    await catalogue.refresh()
    doing = "what the file declared before cannot be read"
    for name, declaration in pools.items():
        declared = msgspec.json.encode(
            {"role": declaration.role, **declaration.settings}, order="sorted"
        )
        field = f"declared:{name}"
        command = ("HGET", event_log.keys.pool(CATALOGUE, "meta"), field)
        applied: bytes | None = await ask(event_log.client, *command, doing=doing)
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
    existing = catalogue.state.live_pool(name)
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
