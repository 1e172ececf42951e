"""Equal requests for figures that come at the same time are answered once.

An answer is only shared by requests that came before it started: none is older than its question.
"""

import functools
from collections.abc import Awaitable, Callable

from gateway.backend.call import Call
from gateway.backend.read_state import ReadState
from gateway.wire.answer import Answer


def answered_once(
    handler: Callable[[Call], Awaitable[Answer]],
) -> Callable[[Call], Awaitable[Answer]]:
    """A handler without parameters, shared by requests that name the same positions."""

    @functools.wraps(handler)
    async def shared(call: Call) -> Answer:
        async def answer() -> tuple[Answer, ReadState]:
            return await handler(call), call.read_state

        key = handler, tuple(call.read_state.requested.items())
        found, read_state = await call.backend.shared_answers.ask(key, answer)
        call.read_state = read_state
        return Answer(found.body, status=found.status, headers=found.headers)

    return shared
