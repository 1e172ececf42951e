"""The requirements on a server, checked when a process first connects."""

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from eventstore.connection.calls import UNREACHABLE, ask, is_transient
from eventstore.connection.clients import MIN_VERSIONS, WRITE_PROBE
from eventstore.errors import LogUnreachable, ServerUnsuitable


async def inspect(client: Redis) -> dict[str, Any]:
    """The server's INFO. Raises `LogUnreachable`, or `ServerUnsuitable` if retrying is useless."""
    try:
        info: dict[str, Any] = await client.info("all")
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        raise ServerUnsuitable(f"Redis refuses this login: {error}") from error
    except InvalidResponse as error:
        raise ServerUnsuitable(f"the server is no Redis: {error}") from error
    except UNREACHABLE as error:
        raise LogUnreachable(f"Redis does not answer: {error}") from error
    except ResponseError as error:
        if is_transient(error):
            raise LogUnreachable(f"Redis is not ready: {error}") from error
        raise ServerUnsuitable(f"Redis refuses: {error}") from error
    except RedisError as error:
        raise ServerUnsuitable(f"the server is no Redis: {error}") from error
    return info


async def require_writable(client: Redis) -> None:
    """Check that the server accepts the log's scripts, which INFO does not show; writes nothing.

    Raises `LogUnreachable` if the refusal is transient (it loads, is a replica, cannot save), else
    `LogError`.
    """
    await ask(client, "EVAL", WRITE_PROBE, 0, doing="Redis runs no scripts")


def server_version(info: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """`("valkey", (9, 1, 0))`. Valkey reports a Redis version too, for clients that ask."""
    kind = "valkey" if "valkey_version" in info else "redis"
    text = str(info.get(f"{kind}_version", "0"))
    return kind, tuple(int(part) for part in text.split(".") if part.isdigit())


def require_suitable(info: dict[str, Any]) -> None:
    """Refuse a server that is too old or that may evict keys. Raises `ServerUnsuitable`."""
    kind, version = server_version(info)
    if version < MIN_VERSIONS[kind]:
        wanted = ".".join(map(str, MIN_VERSIONS[kind]))
        found = ".".join(map(str, version))
        raise ServerUnsuitable(f"{kind} {found} is too old: Muster needs {kind} {wanted} or later")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise ServerUnsuitable(
            f"maxmemory-policy is {policy!r}, so Redis may evict the log; set it to"
            " 'noeviction' (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
        )
