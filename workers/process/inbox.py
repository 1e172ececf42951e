"""A worker's inbox: a Redis list that it blocks on, and on nothing else.

A message wakes exactly the worker that it is for. Messages may be lost (the list expires, a
connection breaks after the message left it), so all that they say comes with every renewal, too;
but for the request to move an agent, which is repeated.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from eventstore.connection.backoff import Backoff
from eventstore.connection.calls import UNREACHABLE, execute_blocking
from eventstore.connection.clients import Client
from eventstore.redis_errors import RedisError

log = structlog.get_logger("muster.worker")

BLOCK_SECONDS = 20.0
"""About how long it waits in one call; the connection may have been lost unnoticed."""
MESSAGES_MAX = 100
"""As many as a list has at most; the same one twice is handled once."""

ABOUT: Final = frozenset({"move", "move-busy"})
"""Messages about one agent, which is all that they say."""


async def listen(
    url: str,
    key: str,
    handlers: Mapping[str, Callable[..., object]],
    *,
    on_reconnected: Callable[[], None],
) -> None:
    """Call the handler of each message, until cancelled; with what its text says after a colon, of
    those in `ABOUT`."""
    client = Client(url, block_seconds=BLOCK_SECONDS * 1.2)
    backoff = Backoff("inbox", key=key)
    async with contextlib.aclosing(client):
        while True:
            seconds = BLOCK_SECONDS * random.uniform(0.8, 1.2)
            try:
                popped = await execute_blocking(
                    client, "BLMPOP", f"{seconds:.2f}", 1, key, "RIGHT", "COUNT", MESSAGES_MAX
                )
            except (*UNREACHABLE, RedisError) as error:
                await asyncio.sleep(backoff.next_delay(error))
                continue
            if backoff.reset():
                on_reconnected()
            for message in dict.fromkeys(popped[1]) if popped else ():
                _handle(message.decode(errors="replace"), handlers)


def _handle(message: str, handlers: Mapping[str, Callable[..., object]]) -> None:
    kind, _, about = message.partition(":")
    handler = handlers.get(kind)
    if handler is None:
        log.info("worker.message_ignored", message=message)
    elif kind in ABOUT:
        handler(about)
    else:
        handler()
