"""The connections of clients, with bounds for what a client may keep waiting.

aiohttp reads and answers the requests. This adds bounds, so that a slow client cannot occupy a
connection, and so that what is not HTTP gets a problem like everything else. The bounds:

    a head that has started    `head_seconds`, then 408
    nothing at all             `idle_seconds`, between requests too; then closed
    a body                     `body_seconds`, see `gateway.wire.requests`
    an answer that is not read `unread_seconds` without a byte going out, then cut
    a handshake of TLS         `head_seconds`, then cut
    connections at once        see `gateway.wire.limiter`

Whether a head is complete is known from the server's `request_factory`, which aiohttp calls then.
"""

import asyncio
import fcntl
import re
import socket
import termios
from array import array
from collections.abc import Callable
from typing import Any, Final, cast

import structlog
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import InvalidURLError, LineTooLong

from gateway.options import Limits
from gateway.wire.limiter import (
    ConnectionLimiter,
    RejectedConnection,
    end_writing,
    raw_response,
)
from gateway.wire.problems import Kind, Problem

log = structlog.get_logger("muster.gateway")

READS: Final = ("GET", "HEAD")
REASON_MAX: Final = 120
HANDSHAKE_MARGIN_SECONDS: Final = 1.0
"""After the time for a handshake it is certain that it has ended."""
_CLIENT_TEXT: Final = re.compile(r"[:\s]+b?['\"](?!Host')")
"""Where a message of aiohttp goes over into what the client sent, which may be a secret."""


_DUPLICATE: Final = re.compile(r"Duplicate '([A-Za-z-]{1,40})' header")


def connection_factory(
    server: web.Server, limiter: ConnectionLimiter, limits: Limits, *, secure: bool = False
) -> Callable[[], asyncio.Protocol]:
    """Makes the protocol of each connection that was accepted; `secure`: before its handshake."""
    make_request = server.request_factory

    def on_request(
        message: Any, body: StreamReader, connection: Any, writer: Any, task: Any
    ) -> web.BaseRequest:
        connection.request_started(body, task if message.method in READS else None)
        return make_request(message, body, connection, writer, task)

    def connect() -> asyncio.Protocol:
        if limiter.admit():
            connection = Connection(server, limiter, limits)
            if secure:
                connection.expect_handshake()
            return connection
        return RejectedConnection(limiter, limits.linger_seconds)

    server.request_factory = on_request
    return connect


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = ("_answered", "_body", "_close_timer", "_handshake_timer", "_head_timer",
                 "_held_back", "_limiter", "_limits", "_reading", "_transport", "_unread_timer",
                 "_unsent")  # fmt: skip

    def __init__(self, server: web.Server, limiter: ConnectionLimiter, limits: Limits) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as aiohttp's own runners pass it
            keepalive_timeout=limits.idle_seconds,
            max_line_size=limits.header_max,
            max_field_size=limits.header_max,
            lingering_time=limits.linger_seconds,
            auto_decompress=False,  # a body that is compressed is refused, see `requests.body`
        )
        self._limiter = limiter
        self._limits = limits
        self._transport: asyncio.Transport | None = None
        self._handshake_timer: asyncio.TimerHandle | None = None
        self._head_timer: asyncio.Handle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._held_back = False
        self._body: StreamReader | None = None
        self._answered = True
        self._reading: asyncio.Task[None] | None = None

    def expect_handshake(self) -> None:
        """Of a handshake that fails nothing else is known here than that it takes too long."""
        seconds = self._limits.head_seconds + HANDSHAKE_MARGIN_SECONDS
        loop = asyncio.get_running_loop()
        self._handshake_timer = loop.call_later(seconds, self._limiter.handshake_failed)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
        self._limiter.connection_opened()
        self._transport = cast("asyncio.Transport", transport)
        self._set_kernel_timeout()
        super().connection_made(transport)

    def _set_kernel_timeout(self) -> None:
        """What the kernel has of an answer waits no longer than what it has not (Linux)."""
        sock = self._transport.get_extra_info("socket") if self._transport else None
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(self._limits.unread_seconds * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._limiter.connection_closed()
        if self._reading is not None:
            self._reading.cancel()
        for timer in (self._head_timer, self._unread_timer, self._close_timer):
            if timer is not None:
                timer.cancel()
        self._transport = None
        super().connection_lost(exc)

    # ---- reading -----------------------------------------------------------------------------

    def pause_reading(self) -> None:
        self._held_back = True
        super().pause_reading()

    def resume_reading(self, *how: bool, **named: bool) -> None:
        """aiohttp asks for it with each piece of a body that is read, and then parses once more."""
        if self._held_back:
            self._held_back = False
            super().resume_reading(*how, **named)

    def data_received(self, data: bytes) -> None:
        if self._close_timer is not None:
            return
        idle = self._answered and (self._body is None or self._body.is_eof())
        super().data_received(data)
        # Usually a head comes at once: it needs no timer.
        complete = data[:1] not in b"\r\n" and b"\r\n\r\n" in data
        if data and idle and not complete and self._head_timer is None:
            loop = asyncio.get_running_loop()
            self._head_timer = loop.call_later(self._limits.head_seconds, self._on_head_timeout)

    def request_started(self, body: StreamReader, reading: "asyncio.Task[None] | None") -> None:
        """A head is complete, or is not HTTP; `body` follows.

        `reading`: the task to cancel if the client leaves before its answer; a command goes on.
        """
        self._reading = reading
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._body, self._answered = body, False

    def _on_head_timeout(self) -> None:
        """A head that was completed in this very turn of the loop is served in the next."""
        self._head_timer = asyncio.get_running_loop().call_soon(self._reject_head)

    def _reject_head(self) -> None:
        if self._transport is None:
            return
        detail = f"the head of a request did not come within {self._limits.head_seconds:g} s"
        self._transport.write(
            raw_response(Problem(Kind.HEAD_TOO_SLOW, detail), self._limiter.headers)
        )
        end_writing(self._transport)
        # If it were closed with something unread, the kernel would drop the answer at the client.
        self._close_timer = asyncio.get_running_loop().call_later(
            self._limits.linger_seconds, self.force_close
        )

    # ---- writing -----------------------------------------------------------------------------

    async def start(self) -> None:
        try:
            await super().start()
        finally:  # a closed transport stays open until all is sent
            self._watch_unread()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unread()

    def _watch_unread(self) -> None:
        """From now on check that what is to be sent goes out, if slowly."""
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
            raise ConnectionError("an answer was started already")
        if status >= 500:
            log.error("gateway.request_failed", exc_info=exc)
            problem = Problem(Kind.INTERNAL, "an unexpected error; the gateway's log has it")
        else:
            problem = _malformed(exc, message)
            log.info("gateway.request_malformed", reason=problem.body.detail)
        answer = problem.answer()
        answer.headers |= self._limiter.headers
        answer.keep_alive = False
        return cast("web.StreamResponse", answer)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer."""
        self._reading = None
        finished = await super().finish_response(request, resp, start_time)
        self._answered = True
        return finished


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Bytes that the client has not received yet: ours, and those in the kernel's queue."""
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
    if duplicate := _DUPLICATE.match(message or ""):
        detail = f"{duplicate[1]} is given more than once"
        return Problem(Kind.MALFORMED_HTTP, detail, field=duplicate[1])
    reason = _CLIENT_TEXT.split(message or "it cannot be read", maxsplit=1)[0]
    printable = " ".join(reason.encode("ascii", "backslashreplace").decode().split())
    return Problem(Kind.MALFORMED_HTTP, printable[:REASON_MAX])
