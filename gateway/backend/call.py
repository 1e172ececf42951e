"""One request on its way through the gateway, its answer, and the headers of every answer.

They say what browsers may do with it, which request it answers, and how new it is.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aiohttp import web
from msgspec import Struct, field

from eventstore.language.durability import Level
from eventstore.steps.step import Origin
from gateway.access.grants import FULL, Grant
from gateway.backend.backend import Backend
from gateway.backend.read_state import ReadState
from gateway.fallback import FALLBACK_HEADER
from gateway.options import GatewayOptions
from gateway.wire.answer import Answer
from gateway.wire.decoding import Sent, WaitPreference

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "muster",
}


class Asked(Struct, frozen=True):
    """What the headers of a command ask for."""

    level: Level
    preference: WaitPreference


class Call(Struct, eq=False):
    """Handlers get it, with what was read of the request."""

    request: web.Request
    backend: Backend
    origin: Origin
    """What is recorded of it."""
    grant: Grant = FULL
    """What its caller may do."""
    read_state: ReadState = field(default_factory=ReadState)
    asked: Asked | None = None
    """Known from an equal head, or once the handler has read it."""
    sent: Sent | None = None
    """The body, as far as there is one."""
    parts: Mapping[str, str] = {}
    """Those of its path that are read, by name."""
    route: str = ""
    """The path of the operation that it was routed to."""
    problem: str = ""
    """The kind of the problem that answers it; empty if none does."""
    started: web.StreamResponse | None = None
    """The answer whose head was sent."""

    @property
    def own_pools(self) -> Sequence[str] | None:
        """The pools that its caller may know of; None: all."""
        return None if self.grant.pools is None else sorted(self.grant.pools)

    @property
    def own_agents(self) -> Mapping[str, Any]:
        """The part of an `AgentFilter` that selects those that its caller may know of."""
        projects = self.grant.projects
        return {
            "pools": None if self.own_pools is None else tuple(self.own_pools),
            "projects": None if projects is None else tuple(sorted(projects)),
        }

    def logs_of(self, pool: str | None) -> Sequence[str] | None:
        """The logs that an answer depends on: of a pool, or (None) of all that it may be about.

        None: all that there are.
        """
        return self.grant.logs if pool is None else [pool]

    def set_headers(self, response: Answer | web.StreamResponse) -> None:
        """Add the headers of every answer to one that was not started."""
        headers = response.headers
        for name, value in default_headers(self.backend.options).items():
            headers.setdefault(name, value)
        headers["X-Request-Id"] = self.origin.correlation_id
        if self.grant.pools is not None:
            read = self.read_state.position.items()
            self.read_state.position = {log: seq for log, seq in read if self.grant.has_log(log)}
        headers.update(self.read_state.headers)

    async def start_stream(self, response: web.StreamResponse) -> None:
        """Send the head of an answer whose content follows."""
        self.set_headers(response)
        self.started = response
        await response.prepare(self.request)


def default_headers(options: GatewayOptions) -> Mapping[str, str]:
    """The headers of every answer, also of one to what could not be read as a request."""
    if options.fallback is None:
        return SECURITY_HEADERS
    return {**SECURITY_HEADERS, FALLBACK_HEADER: options.fallback.mode}


def answered_once(
    handler: Callable[[Call], Awaitable[Answer]],
) -> Callable[[Call], Awaitable[Answer]]:
    """A handler of figures that answers once what is asked by several requests at the same time.

    An answer is only shared by requests that name the same positions, may see the same, and came
    before it started: none is older than its question.
    """

    @functools.wraps(handler)
    async def shared(call: Call) -> Answer:
        async def answer() -> tuple[Answer, ReadState]:
            return await handler(call), call.read_state

        key = handler, call.grant, tuple(call.read_state.requested.items())
        found, read_state = await call.backend.shared_answers.ask(key, answer)
        call.read_state = read_state
        return Answer(found.body, status=found.status, headers=found.headers)

    return shared
