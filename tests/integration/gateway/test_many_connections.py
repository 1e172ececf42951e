"""Many connections, and many requests on one: all are served, or get the reason."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from gateway.backend.call import SECURITY_HEADERS
from gateway.fallback import FALLBACK_HEADER, Fallback
from tests.integration.gateway.raw_connections import GET, connection, connections, impatient
from tests.integration.gateway.stage import QUICK, another_gateway, gateway_stage
from tests.waiting import timed, until


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


async def test_pipelined_requests_are_answered_in_their_order(stage):
    """Two hundred at once, far more than are read ahead; then one that is not HTTP."""
    async with connection(stage) as client:
        ids = [b"n-%d" % n for n in range(200)]
        heads = b"".join(GET + b"X-Request-Id: " + each + b"\r\n\r\n" for each in ids)
        sending = asyncio.ensure_future(client.send(heads))
        answers = [await client.answer() for _ in ids]
        await sending
        assert [answer.headers["x-request-id"].encode() for answer in answers] == ids
        await client.send(b"NONSENSE\r\n\r\n")
        assert (await client.answer()).kind == "malformed-http"
        assert await client.closed()


async def test_a_thousand_idle_connections_shut_out_no_client(stage):
    """And when they close, others can connect."""
    async with contextlib.AsyncExitStack() as opened:
        for _ in range(1_000):
            await opened.enter_async_context(connection(stage))
        for request, status in (
            (stage.get("/healthz"), 200),
            (stage.spawn(prefer="respond-async"), 202),
        ):
            seconds, answer = await timed(request)
            assert (answer.status, seconds < 0.5) == (status, True)
        assert connections(stage) >= 1_000
    await until(lambda: connections(stage) <= 1)


async def test_a_connection_too_many_gets_the_reason(redis_url, tmp_path):
    """Logged once; a connection that is free again is used again."""
    async with impatient(redis_url, tmp_path, connections_max=5) as (stage, lines):
        async with contextlib.AsyncExitStack() as opened:
            for _ in range(5):
                client = await opened.enter_async_context(connection(stage))
                await client.send(GET + b"\r\n")
                assert (await client.answer()).status == 200
            for _ in range(3):
                async with connection(stage) as one_more:
                    answer = await one_more.answer()
                    assert (answer.status, answer.kind) == (503, "too-many-connections")
                    assert answer.headers["retry-after"] == "5"
                    assert answer.headers.items() >= _lower(SECURITY_HEADERS).items()
                    assert await one_more.closed()
        await until(lambda: stage.gateway._runner.server.connections == [])
        assert (await stage.get("/healthz")).status == 200
    assert [line["event"] for line in lines].count("gateway.full") == 1


async def test_of_many_connections_at_once_no_more_than_the_limit_are_accepted(redis_url, tmp_path):
    async with impatient(redis_url, tmp_path, connections_max=5) as (stage, _):
        async with contextlib.AsyncExitStack() as opened:
            connecting = [opened.enter_async_context(connection(stage)) for _ in range(50)]
            clients = await asyncio.gather(*connecting)
            await asyncio.gather(*(client.send(GET + b"\r\n") for client in clients))
            answers = await asyncio.gather(*(client.answer() for client in clients))
        assert sorted(answer.status for answer in answers) == [200] * 5 + [503] * 45


async def test_answers_without_a_handler_say_that_a_fallback_serves(redis_url, tmp_path):
    """As every answer does: too many connections, a slow head, no HTTP, and too long a head."""
    wanted = _lower({**SECURITY_HEADERS, FALLBACK_HEADER: "single-process"})
    fallback = Fallback(
        mode="single-process", reason="unreachable", primary="redis://real", since_ms=1
    )
    long_head = GET + b"X: " + b"x" * 9_000 + b"\r\n\r\n"
    limits = type(QUICK)(head_seconds=0.3, connections_max=3)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with (
        gateway_stage(redis_url, database, limits=limits, fallback=fallback) as stage,
        contextlib.AsyncExitStack() as opened,
    ):
        clients = [await opened.enter_async_context(connection(stage)) for _ in range(3)]
        answers = []
        for client in clients:
            await client.send(GET + b"\r\n")
            answers.append(await client.answer())
        async with connection(stage) as one_more:
            answers.append(await one_more.answer())
        for client, request in zip(clients, (GET, b"NONSENSE\r\n\r\n", long_head), strict=True):
            await client.send(request)
            answers.append(await client.answer())
    assert [answer.status for answer in answers] == [200, 200, 200, 503, 408, 400, 431]
    for answer in answers:
        assert answer.headers.items() >= wanted.items(), answer.status


async def test_a_client_that_connects_while_the_gateway_stops_is_disconnected(stage, subtests):
    """However far its connection is accepted: it is closed (a warning fails the test)."""
    for turns in range(5):
        async with another_gateway(stage) as other:
            where = ("127.0.0.1", urlsplit(other.gateway.url).port)
            with subtests.test(turns=turns), socket.create_connection(where, 5) as client:
                for _ in range(turns):
                    await asyncio.sleep(0)
                seconds, _ = await timed(other.gateway.stop())
                assert seconds < 3
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.to_thread(client.recv, 1) == b""
        gc.collect()


async def test_an_old_client_keeps_its_connection_if_it_asks_for_that(stage):
    async with connection(stage) as client:
        for asked in ("keep-alive", "keep-alive", "close"):
            head = f"GET /healthz HTTP/1.0\r\nHost: localhost\r\nConnection: {asked}\r\n\r\n"
            await client.send(head.encode())
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (200, asked)
        assert await client.closed()
