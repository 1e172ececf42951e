"""Calls Redis, and translates its errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from eventstore import redis_errors
from eventstore.connection.clients import Client
from eventstore.connection.denials import denied_command
from eventstore.connection.reply_parser import Argument, Command
from eventstore.errors import LogError, LogUnreachable, NotEnoughReplicas, WrongType

UNREACHABLE = (
    redis_errors.RedisConnectionError,
    redis_errors.RedisTimeoutError,
    redis_errors.InvalidResponse,
    ConnectionError,
    TimeoutError,
)
"""The errors of a lost connection, or of a reply that no Redis sends.

The server's own refusals are `ResponseError`.
"""

AsyncClient: TypeAlias = Client
T = TypeVar("T")


async def execute_many(
    client: AsyncClient, commands: Iterable[Command], *, refusals: bool = False
) -> list[Any]:
    """The replies to many commands in one call. Raises a `RedisError`.

    `refusals`: one that the server refuses has its error as its reply; else the first is raised.
    """
    replies = await client.execute_all(list(commands))
    for reply in replies:
        if isinstance(reply, Exception) and not refusals:
            raise reply
    return replies


async def scan(client: AsyncClient, prefix: str) -> AsyncIterator[Sequence[bytes]]:
    """The keys that begin so, in portions; a key may come twice."""
    pattern = "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in prefix) + "*"
    cursor = -1
    while cursor:
        command = ("SCAN", max(cursor, 0), "MATCH", pattern, "COUNT", 1000)
        reply = await client.execute_command(*command)
        cursor = int(reply[0])
        yield reply[1]


async def execute_blocking(client: AsyncClient, *command: Argument) -> Any:
    """A command's reply for a call that may block for long: it gets a connection of its own."""
    (reply,) = await client.execute_blocking(command)
    if isinstance(reply, Exception):
        raise reply
    return reply


async def ask(client: AsyncClient, *command: Argument, doing: str = "") -> Any:
    """A command's reply. Raises `LogUnreachable`, `WrongType`, `LogError`.

    `doing`: how the message of a refusal starts.
    """
    doing = doing or f"{command[0]!r} failed"
    with translated_errors(doing):
        try:
            return await client.execute_command(*command)
        except redis_errors.NoPermissionError as error:
            raise LogError(f"{doing}: {denied_command(command)}") from error


@contextmanager
def translated_errors(doing: str) -> Iterator[None]:
    """Replace the errors of a call by those of the log."""
    try:
        yield
    except UNREACHABLE as error:
        raise unreachable(error) from error
    except redis_errors.ResponseError as error:
        raise refusal(doing, error) from error


async def completed(work: Awaitable[T]) -> T:
    """Await cleaning up to its end; a cancellation is raised only then, so that all is closed."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def pairs_of(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The names and values of a reply in which they alternate."""
    return zip(flat[::2], flat[1::2], strict=True)


def unreachable(error: BaseException) -> LogUnreachable:
    """The log's error for one of `UNREACHABLE`."""
    if isinstance(error, redis_errors.InvalidResponse):
        return LogUnreachable(f"the server is no Redis: {error}")
    return LogUnreachable(f"Redis does not answer: {error}")


def refusal(doing: str, error: redis_errors.ResponseError) -> LogError:
    """The log's error for a refusal by the server."""
    if str(error).startswith("NOREPLICAS"):
        return NotEnoughReplicas()
    if isinstance(error, redis_errors.TransientError):
        return LogUnreachable(f"Redis is not ready: {error}")
    kind = WrongType if str(error).startswith("WRONGTYPE") else LogError
    return kind(f"{doing}: {error}")
