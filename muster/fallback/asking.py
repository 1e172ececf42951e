"""Asking a Redis one thing, with the log's errors, and many things side by side."""

import asyncio
from collections.abc import Coroutine, Iterable
from itertools import islice
from typing import Any, Final, TypeVar

from redis.exceptions import ResponseError

from eventstore.connection.calls import UNREACHABLE, AsyncClient, execute, is_transient, unreachable
from eventstore.errors import LogError, LogUnreachable

T = TypeVar("T")
CONCURRENCY: Final = 32


async def gather_bounded(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do it all, so many at a time; begun in order. What fails ends it once the others are done."""
    found: list[T] = []
    remaining = iter(work)
    while chunk := list(islice(remaining, CONCURRENCY)):
        done = await asyncio.gather(*chunk, return_exceptions=True)
        for one in done:
            if isinstance(one, BaseException):
                raise one
            found.append(one)
    return found


async def ask(client: AsyncClient, *command: str | bytes | int) -> Any:
    """The reply as it came. Raises `LogUnreachable`, or `LogError` for a refusal."""
    try:
        return await execute(client, *command)
    except UNREACHABLE as error:
        raise unreachable(error) from error
    except ResponseError as error:
        if is_transient(error):
            raise LogUnreachable(f"Redis is not ready: {error}") from error
        raise LogError(f"{command[0]!r} failed: {error}") from error
