"""Prepares the log before anything uses it: the server fits, the log exists, pools are declared."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from eventstore import errors
from eventstore.connection.clients import connect
from eventstore.connection.requirements import inspect, require_suitable
from eventstore.keys import CATALOGUE, Keys
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from muster.process import declared_pools
from muster.settings.addresses import redacted
from muster.settings.settings import Settings

log = structlog.get_logger("muster")

DATABASE_RETRY_SECONDS: Final = 0.5


async def prepare(
    settings: Settings, role: str = "up", echo: Callable[[str], None] | None = None
) -> bool:
    """Check the server and apply the declared pools; False where the log was lost.

    A log is created only where the archive shows that there never was one: so this waits for the
    database, and `echo` prints that. Raises `MusterError`.
    """
    client = connect(settings.redis_url, max_connections=2)
    reader = Reader(settings.redis_url)
    try:
        require_suitable(await inspect(client))
        event_log = Log(client, Keys(settings.key_prefix), retention=settings.retention)
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
        await declared_pools.apply(event_log, catalogue, settings.pools)
    except (errors.Halted, errors.LogMissing, errors.RolledBack) as error:
        log.error("log.lost", pool=error.pool, reason=str(error))
        return False
    except (errors.LogUnreachable, errors.ServerUnsuitable) as error:
        # `Recovered` is not made of a text.
        kind = errors.LogUnreachable if isinstance(error, errors.Recovered) else type(error)
        raise kind(f"{redacted(settings.redis_url)}: {error}") from None
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

    reported = False
    while True:
        try:
            return await archive_exists(settings.views_url)
        except (DatabaseError, OSError) as error:
            if not reported:
                log.warning("role.waits_for_database", error=type(error).__name__)
                if echo is not None:
                    why = str(getattr(error, "orig", error)).partition("\n")[0]
                    echo(f"{redacted(settings.views_url)}: {why}; waiting for it")
                reported = True
            await asyncio.sleep(DATABASE_RETRY_SECONDS)
