"""The load generator counts only what was answered as it should be."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.bench import load


@asynccontextmanager
async def server(status: int, *, closes: bool = False) -> AsyncIterator[tuple[str, list[object]]]:
    """Answers each request, head and body apart; the bodies that it got."""
    got: list[object] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        got.append(await request.json())
        assert request.headers["Prefer"] == "respond-async"
        response = web.StreamResponse(status=status)
        response.content_length = 6
        await response.prepare(request)
        if closes:
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write(b"answer")
        return response

    app = web.Application()
    app.router.add_post("/spawn", answer)
    async with TestServer(app) as listening:
        yield str(listening.make_url("/spawn")), got


async def test_every_request_is_sent_once_and_answered() -> None:
    async with server(202) as (url, got):
        sent = await load.post(url, {"a": "b"}, 20, connections=3)
    assert got == [{"a": "b"}] * 20
    assert len(sent.latencies_ms) == 20


async def test_connections_are_used_again() -> None:
    async with server(202) as (url, got), load.Connections(url, {"a": "b"}, 2) as connections:
        await connections.post(3)
        await connections.post(4)
        assert len(got) == 7


async def test_a_refusal_is_an_error() -> None:
    async with server(429) as (url, _):
        with pytest.raises(AssertionError, match="answer"):
            await load.post(url, {"a": "b"}, 5, connections=2)


async def test_a_connection_that_is_closed_is_an_error() -> None:
    async with server(202, closes=True) as (url, _):
        with pytest.raises(AssertionError, match="closed"):
            await load.post(url, {"a": "b"}, 5, connections=1)
