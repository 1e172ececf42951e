"""A TCP address that leads to one server now and to another later, as in a failover.

Clients use the same address, as they do behind a load balancer or a managed endpoint.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from gateway.wire.limiter import stop_accepting


class Crossing:
    """Forwards to `port`; existing connections keep their target until they are cut."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._ways: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> int:
        """The port that clients connect to."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.address}/0"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def stop(self) -> None:
        if self._server is not None:
            await stop_accepting(self._server)
        self.cut()
        if self._ways:
            await asyncio.wait(self._ways)

    def lead_to(self, port: int) -> None:
        """Send new connections there; existing ones are not touched."""
        self.port = port

    def cut(self) -> None:
        """End every connection at once, also in the middle of a reply."""
        for writer in list(self._writers):
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way = asyncio.create_task(self._forward(reader, writer))
        self._ways.add(way)
        way.add_done_callback(self._ways.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            away_reader, away_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(away_writer)
        try:
            await asyncio.gather(_copy(reader, away_writer), _copy(away_reader, writer))
        finally:
            for end in (writer, away_writer):
                end.transport.abort()
                self._writers.discard(end)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while content := await reader.read(65536):
            writer.write(content)
            await writer.drain()
    writer.transport.abort()


@asynccontextmanager
async def crossing(port: int) -> AsyncIterator[Crossing]:
    """An address that leads to `port` at first."""
    opened = Crossing(port)
    await opened.start()
    try:
        yield opened
    finally:
        await opened.stop()
