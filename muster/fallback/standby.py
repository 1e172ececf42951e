"""A fallback that serves: what it consists of, and what it watches for meanwhile.

Nothing of the real log runs here. Its agents are not known, and those that still run elsewhere on
this host end with their leases. Only what is asked for now is in this log; its pools are those that
the views know. It holds the lock of this host's supervisor for the real log too, so that no other
process on this host serves that log, or falls back from it, at the same time.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from eventstore.connection.clients import connect
from eventstore.connection.requirements import inspect, require_suitable
from eventstore.errors import MusterError
from gateway.fallback import Fallback
from muster.fallback import directory, eligibility, last_seen
from muster.fallback.directory import Folder
from muster.fallback.eligibility import Cluster
from muster.settings.addresses import redacted
from muster.settings.settings import Settings
from workers.host.lock import FALLBACK_LOCK_TIMEOUT_SECONDS, HostLock

log = structlog.get_logger("muster.fallback")


class ActiveFallback(Struct, frozen=True):
    """`settings` are those to run with, but for the address of the fallback's own server.

    `lock`: that of this host's supervisor for the real log; released at the end.
    """

    settings: Settings
    folder: Folder
    status: Fallback
    lock: HostLock


async def start_if_needed(settings: Settings) -> ActiveFallback | None:
    """A fallback where one is wanted and needed, else None. Raises `ConfigurationError`."""
    if settings.fallback == "none":
        return None
    timeout = eligibility.UNREACHABLE_SECONDS
    reason = await eligibility.unreachable_reason(settings.redis_url, timeout_seconds=timeout)
    if not reason:
        return None
    cluster = await eligibility.require_only_host(settings, last_seen.read(settings))
    host = last_seen.own_host(settings)
    lock = HostLock(f"{host}|{settings.redis_url}|{settings.key_prefix}")
    await lock.acquire(FALLBACK_LOCK_TIMEOUT_SECONDS)
    real = redacted(settings.redis_url)
    folder = directory.serving(settings.data_dir)
    identity = folder.open(real, reason)
    status = Fallback(
        mode=settings.fallback, reason=reason, primary=real, since_ms=identity.since_ms
    )
    log.warning("fallback.active", redis=real, reason=reason, log_id=identity.log_id)
    return ActiveFallback(_settings(settings, folder, cluster), folder, status, lock)


def _settings(settings: Settings, folder: Folder, cluster: Cluster) -> Settings:
    """One process; pools whose role is declared here; agents have their database as ever."""
    return replace(
        settings,
        single_process=True,
        key_prefix="",
        fallback="none",
        pools={name: pool for name, pool in cluster.pools.items() if pool.role in settings.roles},
        fallback_views_url=folder.views_url,
    )


RETRY_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 15.0)
ATTEMPT_SECONDS: Final = 5.0


async def watch(url: str, fallback: Fallback, echo: Callable[[str], None]) -> None:
    """Update `fallback.primary_reachable_ms`, and print each change; until cancelled.

    The real Redis is asked ever more seldom while it does not answer.
    """
    failures = 0
    while True:
        await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
        reachable = await _is_reachable(url)
        if reachable and not fallback.primary_reachable_ms:
            fallback.primary_reachable_ms = int(time.time() * 1000)
            log.warning("fallback.primary_reachable", redis=fallback.primary)
            echo(f"{fallback.primary} answers again; restart `muster up` to change over to it")
        elif not reachable and fallback.primary_reachable_ms:
            fallback.primary_reachable_ms = 0
            log.warning("fallback.primary_unreachable", redis=fallback.primary)
            echo(f"{fallback.primary} is unreachable again")
            failures = 0
        failures += 1


async def _is_reachable(url: str) -> bool:
    """Whether it answers and is fit for the log."""
    client = connect(url, max_connections=1)
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            require_suitable(await inspect(client))
    except (MusterError, TimeoutError):
        return False
    finally:
        await client.aclose()
    return True
