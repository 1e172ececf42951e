"""Equal requests for figures that come at the same time are answered once.

An answer is only shared by requests that came before it started: none is older than its question.
"""

import functools
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.backend.backend import BACKEND
from gateway.backend.read_state import READ_STATE, ReadState
from gateway.wire.answer import Answer


def answered_once(
    handler: Callable[[web.Request], Awaitable[Answer]],
) -> Callable[[web.Request], Awaitable[Answer]]:
    """A handler without parameters, shared by requests that name the same positions."""

    @functools.wraps(handler)
    async def shared(request: web.Request) -> Answer:
        async def answer() -> tuple[Answer, ReadState]:
            return await handler(request), request[READ_STATE]

        key = handler, tuple(request[READ_STATE].requested.items())
        found, read_state = await request[BACKEND].shared_answers.ask(key, answer)
        request[READ_STATE] = read_state
        return Answer(found.body, status=found.status, headers=found.headers)

    return shared
