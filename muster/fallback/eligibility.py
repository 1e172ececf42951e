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

from eventstore.connection.calls import UNREACHABLE, interruptible
from eventstore.connection.clients import connect
from eventstore.errors import ConfigurationError
from eventstore.keys import CATALOGUE
from muster.fallback.last_seen import Surroundings, own_host
from muster.settings.addresses import redacted
from muster.settings.settings import Settings

PATIENCE_SECONDS: Final = 2.0
"""For how long Redis must be silent: the time of a quick restart."""
PAUSE_SECONDS: Final = 0.25
ATTEMPT_SECONDS: Final = 2.0
STILL: Final = f"it does not answer within {ATTEMPT_SECONDS:g} s"
VIEWS_SECONDS: Final = 8.0

SPOKE: Final = (AuthenticationError, AuthorizationError, BusyLoadingError, InvalidResponse)
"""To redis-py, or to us, these are lost connections, but a server said them."""


def demand_possible(settings: Settings) -> None:
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


async def silence(url: str, *, patience_seconds: float) -> str:
    """What trying to reach Redis came to, if nothing spoke there for all of that time; else ''."""
    deadline = time.monotonic() + patience_seconds
    while said := await _tried(url):
        if time.monotonic() >= deadline:
            return said
        await asyncio.sleep(PAUSE_SECONDS)
    return ""


async def _tried(url: str) -> str:
    client = connect(url, max_connections=1)
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            await interruptible(client, "PING")
    except SPOKE:
        return ""
    except UNREACHABLE as error:
        refused = "max number of clients" in str(error) or isinstance(
            error.__context__, ssl.SSLError
        )
        return "" if refused else (str(error).rstrip(".") or STILL)
    except RedisError:
        return ""
    finally:
        await client.aclose()
    return ""


class Seen(Struct, frozen=True):
    """Hosts that have not left, as of a position of the catalogue."""

    position: tuple[int, int]
    hosts: dict[str, str]
    where: str


async def demand_alone(settings: Settings, known: Surroundings) -> None:
    """Raises `ConfigurationError` unless this host is the only one, as far as can be known."""
    recorded = Seen(known.position, known.hosts, "this data folder")
    viewed = await _views(settings)
    if viewed is None and known.position == (0, 0):
        raise ConfigurationError(
            f"neither Redis ({redacted(settings.redis_url)}) nor the database"
            f" ({redacted(settings.views_url)}) answers, and {settings.data_dir} has seen neither"
            " before: whether other hosts serve this log cannot be known, so there is no fallback"
        )
    latest = max((recorded, *((viewed,) if viewed else ())), key=lambda seen: seen.position)
    others = others_than({own_host(settings), *known.own_hosts}, latest)
    if others:
        raise ConfigurationError(
            f"{redacted(settings.redis_url)} cannot be reached, and there is no fallback, because"
            f" other hosts are registered: {', '.join(others)} (as {latest.where} tells). They may"
            " reach it and serve that log"
        )


def others_than(own: set[str], seen: Seen) -> list[str]:
    """Hosts that are not ours, for people."""
    return sorted(f"{host} ({name})" for host, name in seen.hosts.items() if host not in own)


async def _views(settings: Settings) -> Seen | None:
    """What the views tell; None where their database does not answer."""
    where = "the database"
    if settings.never_viewed:
        return Seen((0, 0), {}, where)
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
    return Seen((position.generation, position.seq), hosts, where)
