"""Where connections come in: how many there may be at once, and the answer to one more."""

import asyncio
import resource
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, cast

import structlog

from gateway.options import Limits
from gateway.wire.problems import Kind, Problem

log = structlog.get_logger("muster.gateway")

RESERVED_FILES: Final = 256
"""Descriptors that are not for clients: Redis, the database, logs."""
REJECTED_MAX: Final = 128
"""So many rejected clients at once are waited for."""
BACKLOG: Final = 1024
"""So many connections wait to be accepted at most, and may then be accepted in one turn."""
ACCEPT_LOOP_TURNS: Final = 3
"""Of the loop, from the acceptance of a connection until its task waits for a request."""
FULL_RESET_RATIO: Final = 0.9
"""That the gateway is full is logged again once it was this much emptier."""


class ConnectionLimiter:
    """Counts connections. `headers`: those of all answers, for the ones that no handler makes."""

    def __init__(self, connections_max: int, headers: Mapping[str, str]) -> None:
        self.connections_max = connections_max
        self.headers = headers
        self.open = 0
        self.rejected = 0
        self._pending = 0
        self._full_logged = False

    def admit(self) -> bool:
        """Whether one more connection may be made; in a later turn it is reported as opened."""
        if self.open + self._pending < self.connections_max:
            self._pending += 1
            return True
        if not self._full_logged:
            self._full_logged = True
            log.warning("gateway.full", connections=self.open)
        return False

    def handshake_failed(self) -> None:
        """One that was admitted is not made."""
        self._pending -= 1

    def connection_opened(self) -> None:
        self._pending -= 1
        self.open += 1

    def connection_closed(self) -> None:
        self.open -= 1
        if self.open < self.connections_max * FULL_RESET_RATIO:
            self._full_logged = False


class RejectedConnection(asyncio.Protocol):
    """One connection too many: it is answered and closed, whatever was asked.

    If it were closed with something unread, the kernel would drop the answer at the client: what it
    has asked is read, for a while, unless there are too many such connections.
    """

    def __init__(self, limiter: ConnectionLimiter, linger_seconds: float) -> None:
        self._limiter = limiter
        self._linger_seconds = linger_seconds
        self._close_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        write_transport = cast("asyncio.WriteTransport", transport)
        problem = Problem(Kind.TOO_MANY_CONNECTIONS, "this gateway has no connection left")
        write_transport.write(raw_response(problem, self._limiter.headers))
        self._limiter.rejected += 1
        seconds = self._linger_seconds if self._limiter.rejected <= REJECTED_MAX else 0.0
        end_writing(write_transport)
        loop = asyncio.get_running_loop()
        self._close_timer = loop.call_later(seconds, write_transport.close)

    def connection_lost(self, _: Exception | None) -> None:
        self._limiter.rejected -= 1
        if self._close_timer is not None:
            self._close_timer.cancel()


def end_writing(transport: asyncio.WriteTransport) -> None:
    """Let the client know that nothing more comes; over TLS only closing does."""
    if transport.can_write_eof():
        transport.write_eof()


def raw_response(problem: Problem, headers: Mapping[str, str]) -> bytes:
    """A problem as it goes over the wire where no request is at hand; the connection ends."""
    answer = problem.answer()
    answer.headers |= {"Connection": "close", **headers}
    return answer.head() + answer.body


def connection_capacity(limits: Limits) -> tuple[int, int]:
    """How many connections there may be, and how many may wait to be accepted.

    It depends on how many descriptors the process may have, once its own limit is raised (a system
    may refuse that, as macOS does above its own maximum). Some are reserved: connections that are
    one too many need one each until they are answered.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = limits.connections_max + RESERVED_FILES + BACKLOG
    if soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    backlog = min(BACKLOG, soft // 4)
    return max(min(limits.connections_max, soft - RESERVED_FILES - backlog), 1), backlog


async def stop_accepting(server: asyncio.Server) -> None:
    """Listen no more, for good.

    A connection that was just accepted is first made, and waits for its request. In a server that
    is closed by then, asyncio leaves it open for the garbage collector (python/cpython#109564), and
    aiohttp's shut-down waits for one that does not wait yet.
    """
    loop = asyncio.get_running_loop()
    for listening_socket in server.sockets:
        loop.remove_reader(listening_socket)
    await _accepted()
    server.close()
    await _accepted()  # uvloop has accepted until then


async def _accepted() -> None:
    """Returns once what was accepted waits for its request."""
    for _ in range(ACCEPT_LOOP_TURNS):
        await asyncio.sleep(0)
