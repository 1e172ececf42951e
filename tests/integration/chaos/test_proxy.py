"""The proxy of the harness does to a connection what it says, and nothing else."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.chaos.proxy import Link, Weather
from tests.waiting import until

REPLY = b"pong" * 1000


class Server:
    """Answers every line with `REPLY`, and stores what it was sent."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    def break_off(self) -> None:
        """Reset all connections."""
        for writer in self._writers:
            at_once = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while line := await reader.readline():
                self.received.append(line)
                writer.write(REPLY)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def link(server: Server) -> AsyncIterator[Link]:
    link = Link("test", server.port, Random(1))
    await link.start()
    yield link
    await link.stop()


class Client:
    """One connection through the link."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def __aenter__(self) -> "Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.link.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def ask(self, line: bytes = b"ping\n") -> bytes:
        """Everything that comes back for one line, up to a complete reply or the end."""
        self.writer.write(line)
        found = b""
        while len(found) < len(REPLY):
            try:
                chunk = await self.reader.read(65536)
            except ConnectionError:
                break
            if not chunk:
                break
            found += chunk
        return found


async def test_without_faults_everything_passes_through(link: Link):
    async with Client(link) as client:
        assert await client.ask() == REPLY
        assert await client.ask() == REPLY
    assert link.cuts == 0


async def test_a_reply_is_cut_in_the_middle(link: Link, server: Server):
    """The request was carried out; its sender has a part of the answer, and no connection."""
    link.set(Weather(cut_share=1.0))
    async with Client(link) as client:
        found = await client.ask()
        assert REPLY.startswith(found)
        assert len(found) < len(REPLY)
    assert server.received == [b"ping\n"]
    assert link.cuts == 1


async def test_stalled_requests_arrive_late_even_if_their_sender_is_gone(
    link: Link, server: Server
):
    """As after a partition: this is what fencing is for."""
    link.set(Weather(requests_stall=True))
    async with Client(link) as client:
        client.writer.write(b"late\n")
        await client.writer.drain()
        await asyncio.sleep(0.1)  # it would have arrived by now
        assert server.received == []
        client.writer.close()
        await client.writer.wait_closed()
    link.clear()
    await until(lambda: server.received == [b"late\n"])


async def test_stalled_replies_come_late_and_complete(link: Link, server: Server):
    """The request is carried out, and the reply is not sent yet."""
    link.set(Weather(replies_stall=True))
    async with Client(link) as client:
        asked = asyncio.create_task(client.ask())
        await until(lambda: server.received == [b"ping\n"])
        done, _ = await asyncio.wait({asked}, timeout=0.1)
        assert not done
        link.clear()
        assert await asked == REPLY


async def test_delays_add_up(link: Link):
    link.set(Weather(request_delay_seconds=0.05, reply_delay_seconds=0.05))
    clock = asyncio.get_running_loop().time
    async with Client(link) as client:
        began = clock()
        assert await client.ask() == REPLY
        assert clock() - began >= 0.1


async def test_it_refuses_connections_and_accepts_again_on_the_same_port(link: Link):
    """A process that knows the address finds the server again when the partition is over."""
    port = link.port
    async with Client(link) as client:
        assert await client.ask() == REPLY
        await link.refuse()
        assert await client.ask() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await link.start()
    assert link.port == port
    async with Client(link) as client:
        assert await client.ask() == REPLY


async def test_connections_are_cut_by_share(link: Link):
    async with Client(link) as first, Client(link) as second:
        assert (await first.ask(), await second.ask()) == (REPLY, REPLY)
        assert link.cut(0.0) == 0
        assert link.cut() == 2
        assert (await first.ask(), await second.ask()) == (b"", b"")


async def test_an_unreachable_server_is_a_closed_connection(link: Link, server: Server):
    await server.stop()
    async with Client(link) as client:
        assert await client.ask() == b""


async def test_a_broken_server_connection_closes_the_clients_too(link: Link, server: Server):
    """As one that is killed; a client that waits for an answer would wait for ever."""
    async with Client(link) as client:
        assert await client.ask() == REPLY
        server.break_off()
        assert await asyncio.wait_for(client.reader.read(), 10) == b""
