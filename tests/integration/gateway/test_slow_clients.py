"""Clients that send or read slowly, or leave in the middle: each is cut off, and costs little."""

import asyncio
import socket
import time
from urllib.parse import urlsplit

from tests.integration.gateway.raw_connections import (
    GET,
    POST,
    SPAWN,
    connection,
    connections,
    impatient,
)
from tests.integration.gateway.stage import logged
from tests.waiting import until

UNFINISHED_BODIES = (
    b"Content-Length: 100\r\n\r\n{",
    b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
)


async def test_a_head_that_comes_byte_by_byte_is_cut_off(redis_url, tmp_path):
    """However often a byte comes, and on a connection that was used before, too.

    What still comes then does not replace the answer.
    """
    async with (
        impatient(redis_url, tmp_path, head_seconds=0.2, linger_seconds=5.0) as (stage, _),
        connection(stage) as client,
    ):
        await client.send(GET + b"\r\n")
        assert (await client.answer()).status == 200
        for byte in (GET * 2)[:40]:
            await client.send(bytes([byte]))
            await asyncio.sleep(0.01)
        answer = await client.answer()
        assert (answer.status, answer.kind) == (408, "head-too-slow")
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""


async def test_a_head_in_time_and_a_long_wait_are_not_mistaken_for_a_slow_one(redis_url, tmp_path):
    """The time for a head is from its first byte to its last."""
    async with (
        impatient(redis_url, tmp_path, head_seconds=0.3) as (stage, _),
        connection(stage) as client,
    ):
        waiting = POST.replace(b"wait=0", b"wait=1")
        await client.send(waiting + b"Content-Length: %d\r\n\r\n%s" % (len(SPAWN), SPAWN))
        await until(lambda: len(stage.backend.waiters) == 1)
        await client.send(GET[:10])  # the next request starts while this one waits
        assert (await client.answer()).status == 202
        await client.send(GET[10:] + b"\r\n")
        assert (await client.answer()).status == 200


async def test_a_body_that_comes_after_its_answer_is_not_mistaken_for_a_slow_head(
    redis_url, tmp_path
):
    """The connection is idle afterwards, and stays open for the next request."""
    async with (
        impatient(redis_url, tmp_path, head_seconds=0.2, linger_seconds=5.0) as (stage, _),
        connection(stage) as client,
    ):
        await client.send(GET + b"Content-Length: 4\r\n\r\n")
        assert (await client.answer()).status == 200
        for byte in b"body":
            await client.send(bytes([byte]))
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.3)
        await client.send(GET + b"\r\n")
        assert (await client.answer()).status == 200


async def test_a_connection_that_sends_nothing_is_closed_silently(redis_url, tmp_path):
    async with (
        impatient(redis_url, tmp_path, idle_seconds=0.3) as (stage, _),
        connection(stage) as silent,
        connection(stage, sock=connected(stage, GET + b"\r\n")) as used,
    ):
        await used.answer()
        assert await silent.closed()
        assert await used.closed()


def connected(stage, content: bytes) -> socket.socket:
    """A connection on which the gateway finds bytes as soon as it accepts it."""
    where = urlsplit(stage.gateway.url)
    client = socket.create_connection((where.hostname, where.port))
    client.sendall(content)
    client.setblocking(False)
    return client


async def test_a_body_that_does_not_end_is_cut_off(redis_url, tmp_path):
    async with impatient(redis_url, tmp_path, body_seconds=0.3) as (stage, _):
        for framing in UNFINISHED_BODIES:
            async with connection(stage) as client:
                await client.send(POST + framing)
                answer = await client.answer()
                assert (answer.status, answer.kind) == (408, "body-too-slow")
                assert await client.closed()


async def test_a_body_that_breaks_off_is_no_error_of_the_gateway(stage):
    """A client that leaves in the middle causes no error in the log, and no agent."""
    async with logged() as lines:
        for framing in UNFINISHED_BODIES:
            async with connection(stage) as client:
                await client.send(POST + framing)
                await until(lambda: connections(stage) >= 1)
        await until(lambda: connections(stage) == 0)
        await until(lambda: sum(line["event"] == "gateway.answered" for line in lines) == 2)
    assert {line["log_level"] for line in lines} <= {"debug", "info"}
    assert await stage.events() == []


async def test_a_client_that_does_not_read_its_answer_is_cut_off(redis_url, tmp_path):
    """A stream and a long answer alike: what waits to be sent does not wait for ever."""
    bounds = {"unread_seconds": 0.3, "stream_queue": 100_000}
    async with impatient(redis_url, tmp_path, **bounds) as (stage, lines):
        await spawned(stage, 20)
        before = connections(stage)
        for path in (b"/api/v1/events?after=0", b"/api/v1/agents?limit=1000&include=input"):
            with barely_reading(stage) as client:
                for _ in range(8):
                    client.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await until(lambda: connections(stage) > before)
                await until(lambda: connections(stage) == before)
        await until(lambda: len(stage.backend.subscriptions) == 0)
        assert (await stage.get("/healthz")).status == 200
    assert {line["log_level"] for line in lines} <= {"debug", "info"}


async def test_a_client_that_reads_slowly_is_served_to_the_end(redis_url, tmp_path):
    async with impatient(redis_url, tmp_path, unread_seconds=0.3) as (stage, _):
        await spawned(stage, 20)
        with barely_reading(stage) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(
                client,
                b"GET /api/v1/agents?include=input HTTP/1.1\r\nHost: localhost\r\n"
                b"Connection: close\r\n\r\n",
            )
            got, started = 0, time.monotonic()
            while piece := await loop.sock_recv(client, 65_536):
                got += len(piece)
                if time.monotonic() - started < 0.8:  # longer than one that reads nothing has
                    await asyncio.sleep(0.02)
            assert got > 1_000_000


async def spawned(stage, count: int) -> None:
    """Agents whose rows are long."""
    for _ in range(count):
        await stage.pending(input={"x": "y" * 60_000})
    await stage.stage.settle()


def barely_reading(stage, buffer: int = 1_024) -> socket.socket:
    """A client that reads next to nothing of what is sent to it."""
    where = urlsplit(stage.gateway.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.connect((where.hostname, where.port))
    return client
