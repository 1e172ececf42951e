"""Whether a start leads to a fallback (wanted, needed, and allowed), and one that serves.

It is needed where nothing answers at Redis' address for two seconds. A server that answers in any
way (it loads its data, wants another password, is too old) is there, and its answer is reported as
ever. So is a mistake in the settings: a certificate, a file, another program's port.

It is allowed on a host that is the only one. Others may reach the Redis that we do not, and would
serve the real log while we serve another: a client that asks here and there with one
`Idempotency-Key` would be served twice. Only the views know of other hosts while Redis is
unreachable. Where they do not answer either, or are behind what this folder saw, it is refused.

Nothing of the real log runs in a fallback. Agents of it that still run on this host end with their
leases. Only what is asked for now is in the fallback's log; its pools are those that the views
know. It holds the lock of this host's supervisor for the real log too, so that no other process on
this host serves that log, or falls back from it, at the same time.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from eventstore import redis_errors
from eventstore.connection.backoff import Backoff
from eventstore.connection.calls import execute_blocking
from eventstore.connection.clients import Client
from eventstore.connection.failures import answered, explain
from eventstore.connection.requirements import inspect, require_suitable
from eventstore.errors import ConfigurationError, LogUnreachable, MusterError
from eventstore.keys import CATALOGUE
from eventstore.language.pool_config import PoolConfig
from gateway.fallback import Fallback
from muster.fallback import directory, last_seen
from muster.fallback.directory import Folder
from muster.fallback.last_seen import LastSeen
from muster.settings.addresses import redacted
from muster.settings.settings import PoolDeclaration, Settings
from workers.host.lock import FALLBACK_LOCK_TIMEOUT_SECONDS, HostLock

log = structlog.get_logger("muster.fallback")

UNREACHABLE_SECONDS: Final = 2.0
"""For how long Redis must be silent: the time of a quick restart."""
RETRY_SECONDS: Final = 0.25
ATTEMPT_SECONDS: Final = 2.0
TIMED_OUT: Final = f"it does not answer within {ATTEMPT_SECONDS:g} s"
VIEWS_SECONDS: Final = 8.0
EVENTS_MAX: Final = 100_000
WATCH_SECONDS: Final = (0.5, 15.0)
"""The shortest and the longest pause between checks of the real Redis by a fallback."""
WATCH_ATTEMPT_SECONDS: Final = 5.0


def require_possible(settings: Settings) -> None:
    """Raises `ConfigurationError` where a fallback is wanted that cannot be."""
    if settings.fallback == "none":
        return
    source = settings.source("fallback")
    if settings.embedded:
        raise ConfigurationError(
            f"{source}: a fallback and --embedded do not go together: the embedded server has"
            " nothing to fall back from"
        )
    if not settings.redis_url:
        raise ConfigurationError(
            f"{source}: a fallback needs a Redis to fall back from: set MUSTER_REDIS_URL"
            " (without one, `muster up` brings its own anyway)"
        )


async def unreachable_reason(url: str, *, timeout_seconds: float) -> str:
    """Why Redis cannot be reached, if nothing answers there for all of that time; else ''."""
    deadline = time.monotonic() + timeout_seconds
    while reason := await _ping_failure(url):
        if time.monotonic() >= deadline:
            return reason
        await asyncio.sleep(RETRY_SECONDS)
    return ""


async def _ping_failure(url: str) -> str:
    """Why nothing answers there; empty where something does, or where the address is wrong."""
    async with Client(url) as client:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await execute_blocking(client, "PING")
        except (redis_errors.RedisError, TimeoutError) as error:
            found = await explain(error, client)
            if isinstance(found, LogUnreachable) and not answered(error):
                return TIMED_OUT if isinstance(error, TimeoutError) else str(found)
    return ""


class Cluster(Struct, frozen=True):
    """What the views know of the real log, as of a position of its catalogue."""

    position: tuple[int, int] = (0, 0)
    hosts: dict[str, str] = {}
    """Those that have not left: name by id."""
    pools: dict[str, PoolDeclaration] = {}
    """Those to serve; of the settings' own, such as the catalogue never had."""
    has_tokens: bool = False
    """Whether callers of that service need tokens that a fallback would not know."""


async def require_only_host(settings: Settings, record: LastSeen) -> Cluster:
    """Raises `ConfigurationError` unless this host is known to be the only one."""
    redis, database = redacted(settings.redis_url), redacted(settings.views_url)
    cluster = await _read_views(settings)
    if cluster.position < record.position:
        raise ConfigurationError(
            f"{redis} cannot be reached, and there is no fallback, because the views in {database}"
            f" are behind what {settings.data_dir} last saw of the log: whether other hosts serve"
            " it cannot be known"
        )
    if others := other_hosts({last_seen.own_host(settings), *record.own_hosts}, cluster.hosts):
        raise ConfigurationError(
            f"{redis} cannot be reached, and there is no fallback, because other hosts are"
            f" registered: {', '.join(others)}. They may reach it and serve that log"
        )
    if cluster.has_tokens and not settings.api_token:
        raise ConfigurationError(
            f"{redis} cannot be reached, and there is no fallback, because its tokens would not be"
            " known there, and anyone could use it: set MUSTER_API_TOKEN to allow one"
        )
    return cluster


def other_hosts(own: set[str], hosts: Mapping[str, str]) -> list[str]:
    """Hosts that are not ours, for people."""
    return sorted(f"{host} ({name})" for host, name in hosts.items() if host not in own)


async def _read_views(settings: Settings) -> Cluster:
    """Raises `ConfigurationError` where their database does not answer."""
    if settings.views_missing:
        return Cluster(pools=settings.pools)
    from projector.queries.views import DatabaseError, Position, Views, reason

    views = Views(settings.views_url)
    try:
        async with asyncio.timeout(VIEWS_SECONDS):
            await views.start()
            position = (await views.positions()).get(CATALOGUE, Position(CATALOGUE))
            hosts = {h.host: h.hostname for h in await views.hosts() if h.status != "left"}
            pools = {
                row.pool_name: PoolDeclaration(row.role_type, known_settings(row.config))
                for row in await views.pools()
            }
            has_tokens = bool(await views.tokens())
            created = await views.events(CATALOGUE, types=("pool.created",), limit=EVENTS_MAX)
    except (DatabaseError, OSError) as error:
        redis, database = redacted(settings.redis_url), redacted(settings.views_url)
        raise ConfigurationError(
            f"neither Redis ({redis}) nor the database ({database}: {reason(error)}) answers:"
            " whether other hosts serve this log cannot be known, so there is no fallback"
        ) from None
    finally:
        await views.stop()
    ever = {*pools, *(event.subject for event in created)}
    new = {name: pool for name, pool in settings.pools.items() if name not in ever}
    at = position.generation, position.seq
    return Cluster(at, hosts, {**pools, **new}, has_tokens)


def known_settings(config: Mapping[str, object]) -> dict[str, object]:
    """Without settings that only a newer version knows."""
    return {name: config[name] for name in PoolConfig.__struct_fields__ if name in config}


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
    url, prefix, timeout = settings.redis_url, settings.key_prefix, UNREACHABLE_SECONDS
    if not (reason := await unreachable_reason(url, timeout_seconds=timeout)):
        return None
    cluster = await require_only_host(settings, last_seen.read(settings))
    lock = HostLock(last_seen.own_host(settings), url, prefix)
    await lock.acquire(FALLBACK_LOCK_TIMEOUT_SECONDS)
    real, folder = redacted(url), directory.serving(settings.data_dir)
    identity = folder.open(real, reason)
    status = Fallback(
        mode=settings.fallback, reason=reason, primary=real, since_ms=identity.since_ms
    )
    log.warning("fallback.active", redis=real, reason=reason, log_id=identity.log_id)
    adapted = replace(
        settings,
        single_process=True,
        key_prefix="",
        fallback="none",
        pools={name: pool for name, pool in cluster.pools.items() if pool.role in settings.roles},
        fallback_views_url=folder.views_url,
    )
    return ActiveFallback(adapted, folder, status, lock)


async def watch(url: str, fallback: Fallback, echo: Callable[[str], None]) -> None:
    """Update `fallback.primary_reachable_ms`, and print each change; until cancelled.

    The real Redis is asked ever more seldom while it does not answer.
    """
    backoff = Backoff(seconds=WATCH_SECONDS)
    while True:
        await asyncio.sleep(backoff.next_delay())
        reachable = await _is_reachable(url)
        if reachable and not fallback.primary_reachable_ms:
            fallback.primary_reachable_ms = int(time.time() * 1000)
            log.warning("fallback.primary_reachable", redis=fallback.primary)
            echo(f"{fallback.primary} answers again; restart `muster up` for the handover to it")
        elif not reachable and fallback.primary_reachable_ms:
            fallback.primary_reachable_ms = 0
            log.warning("fallback.primary_unreachable", redis=fallback.primary)
            echo(f"{fallback.primary} is unreachable again")
            backoff.reset()


async def _is_reachable(url: str) -> bool:
    """Whether it answers and is fit for the log."""
    try:
        async with (
            Client(url) as client,
            asyncio.timeout(WATCH_ATTEMPT_SECONDS),
        ):
            require_suitable(await inspect(client))
    except (MusterError, TimeoutError):
        return False
    return True
