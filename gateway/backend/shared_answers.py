"""Equal requests for figures that come at the same time are answered once.

An answer is only shared by requests that came before it started: none is older than its question.
"""

import functools
from collections.abc import Awaitable, Callable

from aiohttp import web
from multidict import CIMultiDict

from gateway.backend.backend import BACKEND
from gateway.backend.read_state import READ_STATE, ReadState


def answered_once(
    handler: Callable[[web.Request], Awaitable[web.Response]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler without parameters, shared by requests that name the same positions."""

    @functools.wraps(handler)
    async def shared(request: web.Request) -> web.Response:
        async def answer() -> tuple[web.Response, ReadState]:
            return await handler(request), request[READ_STATE]

        key = handler, tuple(request[READ_STATE].requested.items())
        found, read_state = await request[BACKEND].shared_answers.ask(key, answer)
        request[READ_STATE] = read_state
        return web.Response(
            body=found.body, status=found.status, headers=CIMultiDict(found.headers)
        )

    return shared
