"""Connections as clients open them: what a client may keep waiting, and for how long.

aiohttp reads and answers the requests; this stands around it, so that nobody can hold a connection
by being slow, and so that what is no HTTP gets a problem like everything else. The bounds:

    a head that has begun      `head_seconds`, then 408
    nothing at all             `idle_seconds`, between requests too; then closed
    a body                     `body_seconds`, see `gateway.requests`
    an answer nobody reads     `unread_seconds` without a byte going out, then cut
    connections at once        `Door.most`; one more gets 503 and is closed

Of aiohttp's insides two names are used, `_request_count` (heads read so far) and `_waiter` (set
while no request is being answered); tests hold what follows from them.
"""

import asyncio
import fcntl
import re
import resource
import socket
import termios
from array import array
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import InvalidURLError, LineTooLong

from gateway.options import Limits
from gateway.wire.problems import Kind, Problem, translate

log = structlog.get_logger("muster.gateway")

RESERVED_FILES: Final = 256
"""Descriptors that are not for clients: Redis, the database, logs."""
BACKLOG: Final = 1024
"""So many connections wait to be accepted at most, and may then be accepted in one turn."""
ACCEPT_LOOP_TURNS: Final = 3
"""Of the loop, from a connection's being accepted to its task's waiting for a request."""
REASON_MAX: Final = 120
_CLIENT_TEXT: Final = re.compile(r"[:\s]+b?['\"](?!Host')")
"""Where aiohttp's words go over into what the client sent, which may be a secret."""
FULL_RESET_RATIO: Final = 0.9
"""That the gateway is full is said again once it was this much emptier."""


class ConnectionLimiter:
    """Where connections come in: makes a protocol for each, and counts them.

    `headers`: those that every answer has, for answers that no handler dresses.
    """

    def __init__(
        self, server: web.Server, limits: Limits, connections_max: int, headers: Mapping[str, str]
    ) -> None:
        self.connections_max = connections_max
        self.headers = headers
        self.open = 0
        self._pending = 0
        self._server = server
        self._limits = limits
        self._full_logged = False

    def __call__(self) -> asyncio.Protocol:
        """The protocol for one more connection, which was accepted and is made in a later turn."""
        if self.open + self._pending < self.connections_max:
            self._pending += 1
            return Connection(self, self._server, self._limits)
        if not self._full_logged:
            self._full_logged = True
            log.warning("gateway.full", connections=self.open)
        return RejectedConnection(self.headers)

    def connection_opened(self) -> None:
        self._pending -= 1
        self.open += 1

    def connection_closed(self) -> None:
        self.open -= 1
        if self.open < self.connections_max * FULL_RESET_RATIO:
            self._full_logged = False


def connection_capacity(limits: Limits) -> tuple[int, int]:
    """How many connections there may be, and how many may wait to be accepted.

    As many descriptors as the process may have, once its own limit is raised, and a few kept back:
    those that are one too many have one each until they are told so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors_needed = limits.connections_max + RESERVED_FILES + BACKLOG
    if soft < descriptors_needed:
        soft = (
            descriptors_needed if hard == resource.RLIM_INFINITY else min(descriptors_needed, hard)
        )
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    backlog = min(BACKLOG, soft // 4)
    return max(min(limits.connections_max, soft - RESERVED_FILES - backlog), 1), backlog


async def stop_accepting(server: asyncio.Server) -> None:
    """Listen no more, for good.

    A connection that was accepted a moment ago is first made, and waits for its request. In a
    server that is closed by then, asyncio drops it, open, for the garbage to find
    (python/cpython#109564); and aiohttp's shut-down waits for one that has not begun to wait.
    """
    loop = asyncio.get_running_loop()
    for listening_socket in server.sockets:
        loop.remove_reader(listening_socket)
    for _ in range(ACCEPT_LOOP_TURNS):
        await asyncio.sleep(0)
    server.close()


class RejectedConnection(asyncio.Protocol):
    """A connection too many: told so and closed, whatever it wanted."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        write_transport = cast("asyncio.WriteTransport", transport)
        detail = "this gateway has as many connections as it takes"
        write_transport.write(
            raw_response(Problem(Kind.TOO_MANY_CONNECTIONS, detail), self._headers)
        )
        write_transport.close()


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_close_timer",
        "_head_timer",
        "_limiter",
        "_limits",
        "_transport",
        "_unread_timer",
        "_unsent",
    )

    def __init__(self, limiter: ConnectionLimiter, server: web.Server, limits: Limits) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as aiohttp's own runners give it
            keepalive_timeout=limits.idle_seconds,
            max_line_size=limits.header_max,
            max_field_size=limits.header_max,
            lingering_time=limits.linger_seconds,
            auto_decompress=False,  # a body that is compressed is refused, see `requests.body`
        )
        self._limiter = limiter
        self._limits = limits
        self._transport: asyncio.Transport | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._limiter.connection_opened()
        self._transport = cast("asyncio.Transport", transport)
        self._set_kernel_timeout()
        super().connection_made(transport)

    def _set_kernel_timeout(self) -> None:
        """What the kernel has taken of an answer waits no longer than what it has not (Linux)."""
        sock = self._transport.get_extra_info("socket") if self._transport else None
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(self._limits.unread_seconds * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._limiter.connection_closed()
        for timer in (self._head_timer, self._unread_timer, self._close_timer):
            self._cancel(timer)
        self._transport = None
        super().connection_lost(exc)

    @staticmethod
    def _cancel(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

    # ---- reading -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._close_timer is not None:
            return
        heads_before = self._request_count
        super().data_received(data)
        if self._request_count != heads_before:
            self._cancel(self._head_timer)
            self._head_timer = None
        elif data and self._head_timer is None and self._waiter is not None:
            loop = asyncio.get_running_loop()
            self._head_timer = loop.call_later(self._limits.head_seconds, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if self._waiter is None or self._transport is None:
            return
        detail = f"the head of a request did not come within {self._limits.head_seconds:g} s"
        self._transport.write(
            raw_response(Problem(Kind.HEAD_TOO_SLOW, detail), self._limiter.headers)
        )
        self._transport.write_eof()
        # Closed with something unread, the kernel would take the answer back from the client.
        self._close_timer = asyncio.get_running_loop().call_later(
            self._limits.linger_seconds, self.force_close
        )

    # ---- writing -----------------------------------------------------------------------------

    async def start(self) -> None:
        try:
            await super().start()
        finally:  # what is closed stays open until all is sent
            self._watch_unread()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unread()

    def _watch_unread(self) -> None:
        """From now on see that what is to be sent goes out, if slowly."""
        if self._transport is not None and self._unread_timer is None:
            self._unsent = unsent_bytes(self._transport)
            seconds = self._limits.unread_seconds
            self._unread_timer = asyncio.get_running_loop().call_later(seconds, self._check_unread)

    def _check_unread(self) -> None:
        self._unread_timer = None
        if self._transport is None:
            return
        before, self._unsent = self._unsent, unsent_bytes(self._transport)
        if self._unsent and self._unsent >= before:
            self._transport.abort()
        elif self._unsent:
            self._watch_unread()

    # ---- what aiohttp answers by itself ------------------------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP (or to a defect outside all handlers); the last one."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        if status >= 500:
            log.error("gateway.request_failed", exc_info=exc)
            problem = Problem(Kind.INTERNAL, "an unexpected error; the gateway's log has it")
        else:
            problem = _malformed(exc, message)
            log.info("gateway.request_malformed", reason=problem.body.detail)
        response = problem.response()
        response.headers.update(self._limiter.headers)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; one of aiohttp's own (to `Expect`) becomes a problem first."""
        if isinstance(resp, web.HTTPException):
            problem = translate(resp)
            assert problem is not None
            resp = problem.response()
        return await super().finish_response(request, resp, start_time)


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Bytes that the client has not taken yet: ours, and those that the kernel holds."""
    buffered = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if not buffered or sock is None:
        return buffered
    queued = array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, queued)
    except OSError:  # it was closed just now
        return buffered
    return buffered + queued[0]


def _malformed(exc: BaseException | None, message: str | None) -> Problem:
    """What is wrong with a request that cannot be read, without repeating any of it."""
    if isinstance(exc, LineTooLong):
        return Problem(Kind.HEAD_TOO_LARGE, "the address or a header is too long")
    if isinstance(exc, InvalidURLError):
        return Problem(Kind.MALFORMED_HTTP, "the address cannot be read")
    reason = _CLIENT_TEXT.split(message or "it cannot be read", maxsplit=1)[0]
    printable = " ".join(reason.encode("ascii", "backslashreplace").decode().split())
    return Problem(Kind.MALFORMED_HTTP, printable[:REASON_MAX])


def raw_response(problem: Problem, headers: Mapping[str, str]) -> bytes:
    """A problem as it goes over the wire where no request is at hand; the connection ends."""
    content = msgspec.json.encode(problem.body)
    response: dict[str, Any] = {
        "Content-Type": problem.response().content_type,
        "Content-Length": len(content),
        "Connection": "close",
        **headers,
        **problem.headers,
    }
    head = f"HTTP/1.1 {problem.body.status} {problem.reason}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in response.items())
    return head.encode() + b"\r\n" + content
