"""Connections to Redis as the log needs them.

redis-py would retry by itself, which can repeat a write whose reply was lost; that is turned off.
Replies stay bytes. A cancelled call would leave its reply on the connection for the next call, so
calls are shielded (see `calls`), and a blocking reader has a connection of its own, whose socket
time-out is longer than its block time.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet

from redis import Redis as SyncRedis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import RedisError
from redis.retry import Retry

from eventstore.connection.calls import UNREACHABLE, NotSent

SOCKET_SECONDS = 5.0
CLOSE_SECONDS = 1.0
"""How long closing connections may take; TLS waits for the server."""
DRIVER = DriverInfo()
"""Sent by each connection; redis-py would read its package's files for each of them again."""
_OPTIONS: Final = {"protocol": 2, "health_check_interval": 0, "driver_info": DRIVER}
_pools: Final[WeakSet[Any]] = WeakSet()


class ConnectionPool(BlockingConnectionPool):
    """A pool that opens no more connections after it was closed.

    redis-py's pool does not close a connection that is just being opened, and opens others for
    later calls. Calls whose caller was cancelled (`shielded`) do both, and nothing would ever close
    their connections.
    """

    _closed = False

    async def get_connection(self, *_: Any, **__: Any) -> AbstractConnection:
        """Raises `NotSent` if the pool is closed, or is closed meanwhile."""
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
        """Drop the connections; it is no error if the server does not answer.

        An error would replace the cancellation that led here, and its task would continue.
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


def connect(
    url: str,
    *,
    block_seconds: float = 0.0,
    max_connections: int = 32,
    client: type[Redis] = Redis,
) -> Redis:
    """A client whose calls block up to `block_seconds`, such as a reader's.

    It waits for a free connection if all are in use. Stream entries stay as they came, alternating
    names and values: faster, and in order.
    """
    seconds = block_seconds + SOCKET_SECONDS
    pool = ConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=seconds,
        socket_timeout=seconds,
        socket_connect_timeout=SOCKET_SECONDS,
        retry=AsyncRetry(NoBackoff(), 0),
        **_OPTIONS,
    )
    _pools.add(pool)
    connected = client.from_pool(pool)
    for command in ("XREAD", "XRANGE", "XREVRANGE", "XPENDING"):
        connected.response_callbacks.pop(command, None)
    return connected


def connect_sync(url: str, *, timeout_seconds: float) -> SyncRedis:
    """A client for a thread, such as the one that renews a lease."""
    client = SyncRedis.from_url(
        url,
        max_connections=1,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        **_OPTIONS,
    )
    _pools.add(client.connection_pool)
    return client


def open_sockets() -> set[int]:
    """The descriptors of all connections of this process. For a forked child to drop them."""
    numbers: set[int] = set()
    for pool in _pools:
        for connection in (*pool._available_connections, *pool._in_use_connections):
            writer = getattr(connection, "_writer", None)
            made = writer.get_extra_info("socket") if writer else getattr(connection, "_sock", None)
            if made is not None:
                numbers.add(made.fileno())
    return numbers
