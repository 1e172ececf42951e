"""Connections over which a test can send any bytes, and a gateway with short time-outs for them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.integration.gateway.stage import QUICK, asked, gateway_stage, logged

SPAWN = json.dumps(asked()).encode()
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = (
    b"POST /api/v1/agents/spawn HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=0\r\n"
    b"Content-Type: application/json\r\n"
)


@asynccontextmanager
async def impatient(redis_url, tmp_path, **limits) -> AsyncIterator[tuple]:
    """A gateway with limits of fractions of a second, and what it logs."""
    shorter = type(QUICK)(
        **{
            "catch_up_seconds": 0.2,
            "linger_seconds": 0.2,
            "stream_heartbeat_seconds": 0.05,
            **limits,
        }
    )
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with logged() as lines, gateway_stage(redis_url, database, limits=shorter) as stage:
        yield stage, lines


class RawAnswer(NamedTuple):
    """One answer as it came over the connection; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        """The type of a problem."""
        assert self.headers["content-type"].startswith("application/problem+json"), self
        problem = json.loads(self.body)
        assert problem["status"] == self.status
        return str(problem["type"])


class RawConnection:
    """A connection over which any bytes can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    async def answer(self) -> RawAnswer:
        """The next answer; its body by its length."""
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 10)).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return RawAnswer(int(first.split(" ")[1]), headers, body)

    async def rest(self) -> bytes:
        """All that comes until the other side closes."""
        return await asyncio.wait_for(self._reader.read(), 10)

    async def closed(self) -> bool:
        """Wait until the other side closes; whether it did so without another byte."""
        try:
            return await self.rest() == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def connection(stage, sock: socket.socket | None = None) -> AsyncIterator[RawConnection]:
    where = urlsplit(stage.gateway.url)
    address = (where.hostname, where.port) if sock is None else (None, None)
    reader, writer = await asyncio.open_connection(*address, sock=sock)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()


def connections(stage) -> int:
    """How many the gateway has open."""
    return stage.gateway._runner.server.connections.__len__()
