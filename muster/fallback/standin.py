"""A fallback that serves: what it is allowed, what it is made of, and what it holds meanwhile.

Nothing of the real log runs here. Its agents are not known, and those that still run elsewhere on
this host end with their leases. Only what is asked for now is in this log, whose pools are those
last seen. The lock of this host's supervisor for the real log is held too, so that nobody else on
this host serves it, or falls back from it, at the same time.
"""

import structlog
from msgspec.structs import replace

from gateway.fallback import Fallback
from muster.addresses import redacted
from muster.fallback import permission, surroundings
from muster.fallback.folder import Folder
from muster.settings import Settings
from workers.hostlock import INSIDE_SECONDS, HostLock

log = structlog.get_logger("muster.fallback")


class StandIn:
    """`settings` are those to run with, but for the address of the fallback's own server."""

    def __init__(self, settings: Settings, folder: Folder, told: Fallback, lock: HostLock) -> None:
        self.settings = settings
        self.folder = folder
        self.told = told
        self._lock = lock

    def release(self) -> None:
        self._lock.release()


async def begin(settings: Settings) -> StandIn | None:
    """A fallback where one is wanted and needed, else None. Raises `ConfigurationError`."""
    if settings.fallback == "none":
        return None
    patience = permission.PATIENCE_SECONDS
    reason = await permission.silence(settings.redis_url, patience_seconds=patience)
    if not reason:
        return None
    known = surroundings.read(settings.data_dir)
    await permission.demand_alone(settings, known)
    host = surroundings.own_host(settings)
    lock = HostLock(f"{host}|{settings.redis_url}|{settings.key_prefix}")
    await lock.acquire(INSIDE_SECONDS)
    real = redacted(settings.redis_url)
    folder = Folder(settings.data_dir)
    identity = folder.open(real, reason)
    told = Fallback(mode=settings.fallback, reason=reason, real=real, since_ms=identity.since_ms)
    log.warning("fallback.active", redis=real, reason=reason, log_id=identity.log_id)
    return StandIn(_settings(settings, folder, known), folder, told, lock)


def _settings(settings: Settings, folder: Folder, known: surroundings.Surroundings) -> Settings:
    """One process; pools last seen whose role is declared here; agents keep their database."""
    pools = surroundings.pools_to_serve(known, settings.pools)
    return replace(
        settings,
        single_process=True,
        key_prefix="",
        fallback="none",
        pools={name: pool for name, pool in pools.items() if pool.role in settings.roles},
        stand_in_views=folder.views_url,
    )
