"""Whether a start leads to a fallback: wanted, needed, and allowed.

It is needed where nothing speaks at Redis' address for two seconds. A server that answers in any
way (it loads its data, wants another password, is too old) is there, and what it says is told as
ever.

It is allowed on a host that is alone. Others may reach the Redis that we do not, and would serve
the real log while we serve another: who asks here and there with one `Idempotency-Key` would be
served twice. With Redis away only the views and this folder's own record can tell of others; the
later of the two is believed. Where a database is configured and does not answer, and nothing was
ever recorded, nobody knows: refused.
"""

import asyncio
import ssl
import time
from typing import Final

from msgspec import Struct
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    RedisError,
)

from eventstore.connection.calls import UNREACHABLE, execute_blocking
from eventstore.connection.clients import connect
from eventstore.errors import ConfigurationError
from eventstore.keys import CATALOGUE
from muster.fallback.last_seen import LastSeen, own_host
from muster.settings.addresses import redacted
from muster.settings.settings import Settings

UNREACHABLE_SECONDS: Final = 2.0
"""For how long Redis must be silent: the time of a quick restart."""
RETRY_SECONDS: Final = 0.25
ATTEMPT_SECONDS: Final = 2.0
TIMED_OUT: Final = f"it does not answer within {ATTEMPT_SECONDS:g} s"
VIEWS_SECONDS: Final = 8.0

SERVER_ERRORS: Final = (AuthenticationError, AuthorizationError, BusyLoadingError, InvalidResponse)
"""To redis-py, or to us, these are lost connections, but a server said them."""


def require_possible(settings: Settings) -> None:
    """Raises `ConfigurationError` where a fallback is wanted that cannot be."""
    if settings.fallback == "none":
        return
    source = settings.sources.get("fallback", "fallback")
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
    """What trying to reach Redis came to, if nothing spoke there for all of that time; else ''."""
    deadline = time.monotonic() + timeout_seconds
    while reason := await _ping_failure(url):
        if time.monotonic() >= deadline:
            return reason
        await asyncio.sleep(RETRY_SECONDS)
    return ""


async def _ping_failure(url: str) -> str:
    client = connect(url, max_connections=1)
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            await execute_blocking(client, "PING")
    except SERVER_ERRORS:
        return ""
    except UNREACHABLE as error:
        refused = "max number of clients" in str(error) or isinstance(
            error.__context__, ssl.SSLError
        )
        return "" if refused else (str(error).rstrip(".") or TIMED_OUT)
    except RedisError:
        return ""
    finally:
        await client.aclose()
    return ""


class KnownHosts(Struct, frozen=True):
    """Hosts that have not left, as of a position of the catalogue."""

    position: tuple[int, int]
    hosts: dict[str, str]
    source: str


async def require_only_host(settings: Settings, last_seen: LastSeen) -> None:
    """Raises `ConfigurationError` unless this host is the only one, as far as can be known."""
    recorded = KnownHosts(last_seen.position, last_seen.hosts, "this data folder")
    viewed = await _hosts_in_views(settings)
    if viewed is None and last_seen.position == (0, 0):
        raise ConfigurationError(
            f"neither Redis ({redacted(settings.redis_url)}) nor the database"
            f" ({redacted(settings.views_url)}) answers, and {settings.data_dir} has seen neither"
            " before: whether other hosts serve this log cannot be known, so there is no fallback"
        )
    latest = max((recorded, *((viewed,) if viewed else ())), key=lambda seen: seen.position)
    others = other_hosts({own_host(settings), *last_seen.own_hosts}, latest)
    if others:
        raise ConfigurationError(
            f"{redacted(settings.redis_url)} cannot be reached, and there is no fallback, because"
            f" other hosts are registered: {', '.join(others)} (as {latest.source} tells). They may"
            " reach it and serve that log"
        )


def other_hosts(own: set[str], known: KnownHosts) -> list[str]:
    """Hosts that are not ours, for people."""
    return sorted(f"{host} ({name})" for host, name in known.hosts.items() if host not in own)


async def _hosts_in_views(settings: Settings) -> KnownHosts | None:
    """What the views tell; None where their database does not answer."""
    source = "the database"
    if settings.views_missing:
        return KnownHosts((0, 0), {}, source)
    from projector.queries.views import DatabaseError, Position, Views

    views = Views(settings.views_url)
    try:
        async with asyncio.timeout(VIEWS_SECONDS):
            await views.start()
            position = (await views.positions()).get(CATALOGUE, Position(CATALOGUE))
            hosts = {h.host: h.hostname for h in await views.hosts() if h.status != "left"}
    except (DatabaseError, OSError, TimeoutError):
        return None
    finally:
        await views.stop()
    return KnownHosts((position.generation, position.seq), hosts, source)
