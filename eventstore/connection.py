"""Connections to Redis as the log needs them.

redis-py retries by itself unless told not to, which can double a write whose reply was lost; here
retries are ours. Replies stay bytes. A call that is cancelled would leave its reply for whoever
uses the connection next, so writes are shielded (see `log`) and a blocking reader has a connection
of its own whose socket time-out lies above its block time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from redis import Redis as SyncRedis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from eventstore.errors import LogError, LogUnreachable, ServerUnsuitable, WrongType

UNREACHABLE = (
    RedisConnectionError,
    RedisTimeoutError,
    InvalidResponse,
    ConnectionError,
    TimeoutError,
)
"""What a lost connection looks like, also where something that is no Redis answers in its place.

The server's own refusals are `ResponseError`.
"""
PASSING = (ClusterDownError, MasterDownError, ReadOnlyError, TryAgainError)
PASSING_WORDS = ("BUSY ", "MISCONF", "NOREPLICAS", "UNBLOCKED")
"""Refusals that pass: as redis-py names them, which takes the word off, or by that word."""

SOCKET_SECONDS = 5.0
CLOSE_SECONDS = 1.0
"""For connections to end in good order; TLS waits for the other side to agree."""
DRIVER = DriverInfo()
"""What a connection says of itself; redis-py would read its package's files for each anew."""
AsyncClient: TypeAlias = Redis
SyncClient: TypeAlias = SyncRedis
T = TypeVar("T")


class Absent(RedisConnectionError):
    """Nothing was sent: Redis is known to be away, or the client was closed."""


class Pool(BlockingConnectionPool):
    """Connections that stay closed once they were.

    redis-py's pool overlooks a connection that is being opened while it is closed, and opens
    another one for whoever asks later. Calls that nobody waits for any more (`shielded`) do both,
    and what they open would belong to nobody.
    """

    _closed = False

    async def get_connection(self, *_: Any, **__: Any) -> AbstractConnection:
        """Raises `Absent` once the pool is closed, and where it was closed meanwhile."""
        self._demand_open()
        connection: AbstractConnection = await super().get_connection()  # type: ignore[no-untyped-call]
        try:
            self._demand_open()
        except Absent:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        if self._closed:
            await connection.disconnect(nowait=True)
        await super().release(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Connections are dropped whatever their server does, and that it is silent is no error.

        It would take the place of the cancellation that led here, and its task would go on.
        """
        with suppress(*UNREACHABLE, RedisError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await super().disconnect(inuse_connections)

    async def aclose(self) -> None:
        self._closed = True
        await super().aclose()

    def _demand_open(self) -> None:
        if self._closed:
            raise Absent("this client was closed")


def connect(url: str, *, max_connections: int = 32, client: type[Redis] = Redis) -> Redis:
    """A client for short calls. Waits for a free connection rather than opening more."""
    pool = Pool.from_url(
        url,
        max_connections=max_connections,
        timeout=SOCKET_SECONDS,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=SOCKET_SECONDS,
        retry=AsyncRetry(NoBackoff(), 0),
        protocol=2,
        health_check_interval=0,
        driver_info=DRIVER,
    )
    return _raw(client.from_pool(pool))


async def give_up(client: AsyncClient) -> None:
    """Drop all connections: what is under way ends now, as if the server had gone."""
    await client.connection_pool.disconnect(inuse_connections=True)


def _raw(client: Redis) -> Redis:
    """Stream entries stay as they came, names and values in turn: faster, and in order."""
    for command in ("XREAD", "XRANGE", "XREVRANGE", "XPENDING"):
        client.response_callbacks.pop(command, None)
    return client


def connect_blocking(url: str, *, block_seconds: float, max_connections: int = 1) -> Redis:
    """A client for a reader, or a few, that block up to `block_seconds`."""
    pool = Pool.from_url(
        url,
        max_connections=max_connections,
        timeout=block_seconds + SOCKET_SECONDS,
        socket_timeout=block_seconds + SOCKET_SECONDS,
        socket_connect_timeout=SOCKET_SECONDS,
        retry=AsyncRetry(NoBackoff(), 0),
        protocol=2,
        health_check_interval=0,
        driver_info=DRIVER,
    )
    return _raw(Redis.from_pool(pool))


def connect_thread(url: str, *, timeout_seconds: float) -> SyncRedis:
    """A client for a thread of its own, such as the one that renews a lease."""
    return SyncRedis.from_url(
        url,
        max_connections=1,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        health_check_interval=0,
        driver_info=DRIVER,
    )


async def execute(client: AsyncClient, *command: str | bytes | int) -> Any:
    """One command's reply. Sent, it is heard to its end even if the caller is cancelled meanwhile.

    On Python 3.11 redis-py can swallow a cancellation that comes while a command is being sent (it
    uses `asyncio.wait_for`). A loop that is cancelled then would go on for ever.
    """
    return await shielded(lambda: send(client, *command))


async def send(client: AsyncClient, *command: str | bytes | int) -> Any:
    """Send one command as it stands; for those who see to cancellation themselves.

    (redis-py leaves this method untyped.) A server that has become a replica is let go of: the
    address may lead to another one by now.
    """
    try:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]
    except ReadOnlyError:
        await client.connection_pool.disconnect(inuse_connections=False)
        raise


async def interruptible(client: AsyncClient, *command: str | bytes | int) -> Any:
    """`execute` for a call that may block for long: a cancellation ends it at once.

    The call has a task of its own here too, but when it is given up its connection is dropped,
    since a reply may still come.
    """
    call = asyncio.ensure_future(send(client, *command))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        call.cancel()
        call.add_done_callback(_take_note)
        await client.connection_pool.disconnect()
        raise


async def shielded(call: Callable[[], Awaitable[T]]) -> T:
    """Run a call to its end even if the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(_awaited(call))
    task.add_done_callback(_take_note)  # nobody may be left to hear of an error
    return await asyncio.shield(task)


def _take_note(done: "asyncio.Future[Any]") -> None:
    if not done.cancelled():
        done.exception()


async def _awaited(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


def passing(error: ResponseError) -> bool:
    """Whether a refusal by the server will pass by itself."""
    return isinstance(error, PASSING) or str(error).startswith(PASSING_WORDS)


def unreachable(error: BaseException) -> LogUnreachable:
    """What it means that one of `UNREACHABLE` was all that came of a call."""
    if isinstance(error, InvalidResponse):
        return LogUnreachable(f"what answers there is no Redis: {error}")
    return LogUnreachable(f"Redis does not answer: {error}")


def refusal(doing: str, error: ResponseError) -> LogError:
    """What it means that the server refuses to be read."""
    if passing(error):
        return LogUnreachable(f"Redis is not ready: {error}")
    kind = WrongType if str(error).startswith("WRONGTYPE") else LogError
    return kind(f"{doing}: {error}")


# ---- is this server fit? -----------------------------------------------------------------------

FLOOR = {"redis": (7, 0), "valkey": (7, 2)}
WRITING = "#!lua flags=allow-oom\nreturn 1"
"""May write, as most scripts of the log may, and writes nothing."""


async def inspect(client: Redis) -> dict[str, Any]:
    """The server's INFO. Raises `LogUnreachable`, or `ServerUnsuitable` where waiting is no use."""
    try:
        info: dict[str, Any] = await client.info("all")
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        raise ServerUnsuitable(f"Redis refuses this login: {error}") from error
    except InvalidResponse as error:
        raise ServerUnsuitable(f"what answers there is no Redis: {error}") from error
    except UNREACHABLE as error:
        raise LogUnreachable(f"Redis does not answer: {error}") from error
    except ResponseError as error:
        if passing(error):
            raise LogUnreachable(f"Redis is not ready: {error}") from error
        raise ServerUnsuitable(f"Redis refuses: {error}") from error
    except RedisError as error:
        raise ServerUnsuitable(f"what answers there is no Redis: {error}") from error
    return info


async def demand_writable(client: Redis) -> None:
    """See that the server takes what the log writes, which INFO does not tell; nothing is written.

    Raises `LogUnreachable` where it will by itself: it loads, is a replica, cannot save. `LogError`
    where it refuses for good.
    """
    try:
        await execute(client, "EVAL", WRITING, 0)
    except UNREACHABLE as error:
        raise unreachable(error) from error
    except ResponseError as error:
        raise refusal("Redis runs no scripts", error) from error


def server_version(info: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """`("valkey", (9, 1, 0))`. Valkey reports a Redis version too, for clients that ask."""
    kind = "valkey" if "valkey_version" in info else "redis"
    text = str(info.get(f"{kind}_version", "0"))
    return kind, tuple(int(part) for part in text.split(".") if part.isdigit())


def demand_suitable(info: dict[str, Any]) -> None:
    """Refuse a server that is too old or that may evict keys. Raises `ServerUnsuitable`."""
    kind, version = server_version(info)
    if version < FLOOR[kind]:
        wanted = ".".join(map(str, FLOOR[kind]))
        found = ".".join(map(str, version))
        raise ServerUnsuitable(f"{kind} {found} is too old: Muster needs {kind} {wanted} or later")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise ServerUnsuitable(
            f"maxmemory-policy is {policy!r}, so Redis may throw the log away; set it to"
            " 'noeviction' (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
        )
