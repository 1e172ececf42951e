"""For a short time a proxy at Redis' address answers in HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from eventstore.connection.clients import Client
from eventstore.errors import LogUnreachable, OutcomeUnknown
from eventstore.keys import Keys
from eventstore.log.log import Log
from gateway.wire.limiter import stop_accepting
from tests.crossing import Crossing, crossing
from tests.waiting import until
from tests.worker_pool import ORIGIN, POOL, worker_pool
from workers.api.agent import Agent

ANSWER = b"HTTP/1.1 400 Bad Request\r\n\r\n"


class Quiet(Agent):
    """Runs until it is stopped."""


class Proxy:
    """The connection to Redis, and the HTTP server that answers in its place."""

    def __init__(self, way: Crossing, good: int, bad: int) -> None:
        self.way, self._good, self._bad = way, good, bad

    @property
    def url(self) -> str:
        return self.way.url

    def break_down(self) -> None:
        self.way.lead_to(self._bad)
        self.way.cut()

    def repair(self) -> None:
        self.way.lead_to(self._good)


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    good = urlsplit(redis_url).port
    assert good is not None

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(ANSWER)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with crossing(good) as way:
        yield Proxy(way, good, server.sockets[0].getsockname()[1])
    await stop_accepting(server)


@asynccontextmanager
async def log_at(url: str) -> AsyncIterator[Log]:
    client = Client(url)
    try:
        yield Log(client, Keys())
    finally:
        await client.aclose()


async def test_a_read_is_unreachable_and_the_outcome_of_a_write_unknown(
    proxy: Proxy, redis_url: str, tmp_path: Path
) -> None:
    """The proxy may have forwarded the write before it failed."""
    async with worker_pool(redis_url, tmp_path), log_at(proxy.url) as log:
        proxy.break_down()
        with pytest.raises(LogUnreachable):
            await log.live(POOL)
        with pytest.raises(OutcomeUnknown):
            await log.commit(log.step(POOL, ORIGIN))
        proxy.repair()
        assert await log.live(POOL) == []


async def test_a_worker_claims_again_when_redis_is_back(
    proxy: Proxy, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worker_pool(redis_url, tmp_path) as pool:
        worker = await pool.worker(Quiet, redis_url=proxy.url)
        claim, refused = worker._slots._claim, asyncio.Event()

        async def watched(free: int) -> None:
            try:
                await claim(free)
            except BaseException:
                refused.set()
                raise

        monkeypatch.setattr(worker._slots, "_claim", watched)
        proxy.break_down()
        worker._slots.wake()
        await until(refused.is_set)
        proxy.repair()
        await pool.reached(await pool.spawn(), "running")
