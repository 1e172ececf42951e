"""One call to Redis: sent, awaited to its end, and its errors translated."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import (
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from eventstore.errors import LogError, LogUnreachable, WrongType

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
TRANSIENT_ERRORS = (ClusterDownError, MasterDownError, ReadOnlyError, TryAgainError)
TRANSIENT_PREFIXES = ("BUSY ", "MISCONF", "NOREPLICAS", "UNBLOCKED")
"""Refusals that pass: as redis-py names them, which takes the word off, or by that word."""


AsyncClient: TypeAlias = Redis
SyncClient: TypeAlias = SyncRedis
T = TypeVar("T")


class NotSent(RedisConnectionError):
    """Nothing was sent: Redis is known to be away, or the client was closed."""


async def drop_connections(client: AsyncClient) -> None:
    """Drop all connections: what is under way ends now, as if the server had gone."""
    await client.connection_pool.disconnect(inuse_connections=True)


async def execute(client: AsyncClient, *command: str | bytes | int) -> Any:
    """One command's reply. Sent, it is heard to its end even if the caller is cancelled meanwhile.

    On Python 3.11 redis-py can swallow a cancellation that comes while a command is being sent (it
    uses `asyncio.wait_for`). A loop that is cancelled then would go on for ever.
    """
    return await shielded(lambda: send(client, *command))


async def ask(client: AsyncClient, *command: str | bytes | int, doing: str = "") -> Any:
    """`execute` with its errors translated. Raises `LogUnreachable`, `WrongType`, `LogError`.

    `doing`: how the message of a refusal starts.
    """
    with translated_errors(doing or f"{command[0]!r} failed"):
        return await execute(client, *command)


@contextmanager
def translated_errors(doing: str) -> Iterator[None]:
    """Raises what an error of redis-py means for the log, in its place."""
    try:
        yield
    except UNREACHABLE as error:
        raise unreachable(error) from error
    except ResponseError as error:
        raise refusal(doing, error) from error


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


async def execute_blocking(client: AsyncClient, *command: str | bytes | int) -> Any:
    """`execute` for a call that may block for long: a cancellation ends it at once.

    The call has a task of its own here too, but when it is given up its connection is dropped,
    since a reply may still come.
    """
    call = asyncio.ensure_future(send(client, *command))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        call.cancel()
        call.add_done_callback(_consume_exception)
        await client.connection_pool.disconnect()
        raise


async def shielded(call: Callable[[], Awaitable[T]]) -> T:
    """Run a call to its end even if the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(_awaited(call))
    task.add_done_callback(_consume_exception)  # nobody may be left to hear of an error
    return await asyncio.shield(task)


def _consume_exception(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()


async def _awaited(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


def is_transient(error: ResponseError) -> bool:
    """Whether a refusal by the server will pass by itself."""
    return isinstance(error, TRANSIENT_ERRORS) or str(error).startswith(TRANSIENT_PREFIXES)


def unreachable(error: BaseException) -> LogUnreachable:
    """What it means that one of `UNREACHABLE` was all that came of a call."""
    if isinstance(error, InvalidResponse):
        return LogUnreachable(f"what answers there is no Redis: {error}")
    return LogUnreachable(f"Redis does not answer: {error}")


def refusal(doing: str, error: ResponseError) -> LogError:
    """What it means that the server refuses to be read."""
    if is_transient(error):
        return LogUnreachable(f"Redis is not ready: {error}")
    kind = WrongType if str(error).startswith("WRONGTYPE") else LogError
    return kind(f"{doing}: {error}")
