"""Calls Redis: sends a command, awaits its reply even if cancelled, and translates errors."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from redis import Redis as SyncRedis
from redis import exceptions
from redis.asyncio import Redis

from eventstore.connection.denials import denied_command
from eventstore.errors import LogError, LogUnreachable, NotEnoughReplicas, WrongType

UNREACHABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.InvalidResponse,
    ConnectionError,
    TimeoutError,
)
"""The errors of a lost connection, or of a reply that no Redis sends.

The server's own refusals are `ResponseError`.
"""
TRANSIENT_ERRORS = (
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
)
TRANSIENT_PREFIXES = ("BUSY ", "MISCONF", "NOREPLICAS", "UNBLOCKED")
"""Transient refusals: some have a class in redis-py, others are known by their prefix."""

AsyncClient: TypeAlias = Redis
SyncClient: TypeAlias = SyncRedis
T = TypeVar("T")


class NotSent(exceptions.ConnectionError):
    """Nothing was sent: Redis is known to be unreachable, or the client was closed."""


async def drop_connections(client: AsyncClient) -> None:
    """Drop all connections: running calls fail now, as if the server had disconnected."""
    await client.connection_pool.disconnect(inuse_connections=True)


async def execute(client: AsyncClient, *command: str | bytes | int) -> Any:
    """One command's reply. It is awaited in the background if the caller is cancelled meanwhile.

    On Python 3.11 redis-py can swallow a cancellation while it sends a command (it uses
    `asyncio.wait_for`). A loop that is cancelled then would never end.
    """
    return await shielded(lambda: send(client, *command))


async def execute_many(
    client: AsyncClient, commands: Iterable[Sequence[str | bytes | int]], *, refusals: bool = False
) -> list[Any]:
    """The replies to many commands in one call, as `execute`.

    `refusals`: one that the server refuses has its error as its reply; else the first is raised.
    """

    async def call() -> list[Any]:
        async with client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=not refusals)
            return replies

    return await shielded(call)


async def ask(client: AsyncClient, *command: str | bytes | int, doing: str = "") -> Any:
    """Like `execute`, but raises `LogUnreachable`, `WrongType`, `LogError`.

    `doing`: how the message of a refusal starts.
    """
    doing = doing or f"{command[0]!r} failed"
    with translated_errors(doing):
        try:
            return await execute(client, *command)
        except exceptions.NoPermissionError as error:
            raise LogError(f"{doing}: {denied_command(command)}") from error


@contextmanager
def translated_errors(doing: str) -> Iterator[None]:
    """Replace errors of redis-py by those of the log."""
    try:
        yield
    except UNREACHABLE as error:
        raise unreachable(error) from error
    except exceptions.ResponseError as error:
        raise refusal(doing, error) from error


async def send(client: AsyncClient, *command: str | bytes | int) -> Any:
    """Send one command; for callers that handle cancellation themselves.

    (redis-py leaves this method untyped.) If the server has become a replica, its connections are
    closed: the address may lead to another server by now.
    """
    try:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]
    except exceptions.ReadOnlyError:
        await client.connection_pool.disconnect(inuse_connections=False)
        raise


async def execute_blocking(client: AsyncClient, *command: str | bytes | int) -> Any:
    """Like `execute` for a call that may block for long: a cancellation ends it at once.

    The call has a task of its own, too, but if it is cancelled its connection is dropped, since a
    reply may still come.
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
    task = asyncio.ensure_future(call())
    task.add_done_callback(_consume_exception)  # the caller may not await the task any more
    return await asyncio.shield(task)


async def completed(work: Awaitable[T]) -> T:
    """Await cleaning up to its end; a cancellation is raised only then, so that all is closed."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _consume_exception(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()


def is_transient(error: exceptions.ResponseError) -> bool:
    """Whether the server will stop refusing by itself."""
    return isinstance(error, TRANSIENT_ERRORS) or str(error).startswith(TRANSIENT_PREFIXES)


def unreachable(error: BaseException) -> LogUnreachable:
    """The log's error for one of `UNREACHABLE`."""
    if isinstance(error, exceptions.InvalidResponse):
        return LogUnreachable(f"the server is no Redis: {error}")
    return LogUnreachable(f"Redis does not answer: {error}")


def refusal(doing: str, error: exceptions.ResponseError) -> LogError:
    """The log's error for a refusal by the server."""
    if str(error).startswith("NOREPLICAS"):
        return NotEnoughReplicas()
    if is_transient(error):
        return LogUnreachable(f"Redis is not ready: {error}")
    kind = WrongType if str(error).startswith("WRONGTYPE") else LogError
    return kind(f"{doing}: {error}")
