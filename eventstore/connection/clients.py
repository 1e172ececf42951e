"""Connections to Redis as the log needs them.

redis-py retries by itself unless told not to, which can double a write whose reply was lost; here
retries are ours. Replies stay bytes. A call that is cancelled would leave its reply for whoever
uses the connection next, so writes are shielded (see `log`) and a blocking reader has a connection
of its own whose socket time-out lies above its block time.
"""

import asyncio
from contextlib import suppress
from typing import Any

from redis import Redis as SyncRedis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import (
    RedisError,
)
from redis.retry import Retry

from eventstore.connection.calls import UNREACHABLE, NotSent

SOCKET_SECONDS = 5.0
CLOSE_SECONDS = 1.0
"""For connections to end in good order; TLS waits for the other side to agree."""
DRIVER = DriverInfo()
"""What a connection says of itself; redis-py would read its package's files for each anew."""


class ConnectionPool(BlockingConnectionPool):
    """Connections that stay closed once they were.

    redis-py's pool overlooks a connection that is being opened while it is closed, and opens
    another one for whoever asks later. Calls that nobody waits for any more (`shielded`) do both,
    and what they open would belong to nobody.
    """

    _closed = False

    async def get_connection(self, *_: Any, **__: Any) -> AbstractConnection:
        """Raises `Absent` once the pool is closed, and where it was closed meanwhile."""
        self._require_open()
        connection: AbstractConnection = await super().get_connection()  # type: ignore[no-untyped-call]
        try:
            self._require_open()
        except NotSent:
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

    def _require_open(self) -> None:
        if self._closed:
            raise NotSent("this client was closed")


def connect(url: str, *, max_connections: int = 32, client: type[Redis] = Redis) -> Redis:
    """A client for short calls. Waits for a free connection rather than opening more."""
    pool = ConnectionPool.from_url(
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


def _raw(client: Redis) -> Redis:
    """Stream entries stay as they came, names and values in turn: faster, and in order."""
    for command in ("XREAD", "XRANGE", "XREVRANGE", "XPENDING"):
        client.response_callbacks.pop(command, None)
    return client


def connect_blocking(url: str, *, block_seconds: float, max_connections: int = 1) -> Redis:
    """A client for a reader, or a few, that block up to `block_seconds`."""
    pool = ConnectionPool.from_url(
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


def connect_sync(url: str, *, timeout_seconds: float) -> SyncRedis:
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


MIN_VERSIONS = {"redis": (7, 0), "valkey": (7, 2)}
WRITE_PROBE = "#!lua flags=allow-oom\nreturn cmsgpack.unpack('\\1')"
"""May write, and reads MessagePack, as most scripts of the log do, and writes nothing."""
