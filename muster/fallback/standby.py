"""A fallback that serves: what it is allowed, what it is made of, and what it holds meanwhile.

Nothing of the real log runs here. Its agents are not known, and those that still run elsewhere on
this host end with their leases. Only what is asked for now is in this log, whose pools are those
last seen. The lock of this host's supervisor for the real log is held too, so that nobody else on
this host serves it, or falls back from it, at the same time.

Whether the real Redis answers again, asked ever more seldom while it does not.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog
from msgspec.structs import replace

from eventstore.connection.clients import connect
from eventstore.connection.requirements import inspect, require_suitable
from eventstore.errors import MusterError
from gateway.fallback import Fallback
from muster.fallback import eligibility, last_seen
from muster.fallback.directory import Folder
from muster.settings.addresses import redacted
from muster.settings.settings import Settings
from workers.host.lock import FALLBACK_LOCK_TIMEOUT_SECONDS, HostLock

log = structlog.get_logger("muster.fallback")


class ActiveFallback:
    """`settings` are those to run with, but for the address of the fallback's own server."""

    def __init__(
        self, settings: Settings, folder: Folder, status: Fallback, lock: HostLock
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.status = status
        self._lock = lock

    def release(self) -> None:
        self._lock.release()


async def start_if_needed(settings: Settings) -> ActiveFallback | None:
    """A fallback where one is wanted and needed, else None. Raises `ConfigurationError`."""
    if settings.fallback == "none":
        return None
    timeout = eligibility.UNREACHABLE_SECONDS
    reason = await eligibility.unreachable_reason(settings.redis_url, timeout_seconds=timeout)
    if not reason:
        return None
    known = last_seen.read(settings.data_dir)
    await eligibility.require_only_host(settings, known)
    host = last_seen.own_host(settings)
    lock = HostLock(f"{host}|{settings.redis_url}|{settings.key_prefix}")
    await lock.acquire(FALLBACK_LOCK_TIMEOUT_SECONDS)
    real = redacted(settings.redis_url)
    folder = Folder(settings.data_dir)
    identity = folder.open(real, reason)
    status = Fallback(
        mode=settings.fallback, reason=reason, primary=real, since_ms=identity.since_ms
    )
    log.warning("fallback.active", redis=real, reason=reason, log_id=identity.log_id)
    return ActiveFallback(_settings(settings, folder, known), folder, status, lock)


def _settings(settings: Settings, folder: Folder, known: last_seen.LastSeen) -> Settings:
    """One process; pools last seen whose role is declared here; agents keep their database."""
    pools = last_seen.pools_to_serve(known, settings.pools)
    return replace(
        settings,
        single_process=True,
        key_prefix="",
        fallback="none",
        pools={name: pool for name, pool in pools.items() if pool.role in settings.roles},
        fallback_views_url=folder.views_url,
    )


RETRY_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 15.0)
ATTEMPT_SECONDS: Final = 5.0


async def watch(url: str, fallback: Fallback, echo: Callable[[str], None]) -> None:
    """Keep `fallback.returned_ms` right, and say so when it changes; until cancelled."""
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
            echo(f"{fallback.primary} is away again")
            failures = 0
        failures += 1


async def _is_reachable(url: str) -> bool:
    """Whether it is there and fit for the log."""
    client = connect(url, max_connections=1)
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            require_suitable(await inspect(client))
    except (MusterError, TimeoutError):
        return False
    finally:
        await client.aclose()
    return True
