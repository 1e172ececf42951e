"""A load generator: the same request, over and over, on a number of HTTP connections.

It parses no more of an answer than its end and status, so that what is measured is the server.
"""

import asyncio
import time
from typing import Self
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length: "


class Sent(Struct, frozen=True):
    """How long it took until all requests were answered, and how long each took."""

    seconds: float
    latencies_ms: list[float]


class _Connection(asyncio.Protocol):
    """Sends its next request when the last one was answered with the expected status."""

    def __init__(self) -> None:
        self._queue: _Queue | None = None
        self._received = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def work_on(self, queue: "_Queue") -> None:
        self._queue = queue
        self._send_next(queue)

    def _send_next(self, queue: "_Queue") -> None:
        if (request := queue.next_request()) is not None:
            self._sent_at = time.perf_counter()
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        end = received.find(HEAD_END)
        if end < 0:
            return
        head = received[:end].lower()
        start = head.find(LENGTH) + len(LENGTH)
        length = int(head[start:].split(b"\r\n", 1)[0])
        if len(received) < end + len(HEAD_END) + length:
            return
        self._received = b""
        queue = self._queue
        assert queue is not None, "an answer to no request"
        queue.answered(int(head[9:12]), received, time.perf_counter() - self._sent_at)
        self._send_next(queue)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._queue is not None:
            self._queue.lost(exc)


class _Queue:
    def __init__(self, request: bytes, count: int, status: int) -> None:
        self._request, self._status = request, status
        self._unsent = self._unanswered = count
        self.latencies_ms: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def next_request(self) -> bytes | None:
        if self._unsent == 0:
            return None
        self._unsent -= 1
        return self._request

    def answered(self, status: int, answer: bytes, seconds: float) -> None:
        self.latencies_ms.append(seconds * 1000)
        self._unanswered -= 1
        if self.done.done():
            return
        if status != self._status:
            self.done.set_exception(AssertionError(answer.decode(errors="replace")))
        elif self._unanswered == 0:
            self.done.set_result(None)

    def lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or AssertionError("the server closed a connection"))


class Connections:
    """Connections to a gateway that stay open between the calls of `post`."""

    def __init__(self, url: str, content: object, connections: int = 64) -> None:
        parts = urlsplit(url)
        self._address = str(parts.hostname), int(parts.port or 80)
        encoded = msgspec.json.encode(content)
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Content-Type: application/json\r\nPrefer: respond-async\r\n"
            f"Content-Length: {len(encoded)}\r\n\r\n"
        )
        self._request = head.encode() + encoded
        self._number = connections
        self._opened: list[_Connection] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for _ in range(self._number):
            _, connection = await loop.create_connection(_Connection, *self._address)
            self._opened.append(connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._opened:
            connection.transport.close()

    async def post(self, count: int, *, status: int = 202) -> Sent:
        """Send the request so many times, each connection its next one when it has its answer.

        Raises AssertionError for another status, and where a connection is lost.
        """
        queue = _Queue(self._request, count, status)
        began = time.perf_counter()
        for connection in self._opened[:count]:
            connection.work_on(queue)
        await queue.done
        return Sent(time.perf_counter() - began, queue.latencies_ms)


async def post(url: str, content: object, count: int, *, connections: int = 64) -> Sent:
    """Post a JSON body so many times, with so many clients."""
    async with Connections(url, content, min(connections, count)) as opened:
        return await opened.post(count)
