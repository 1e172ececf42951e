"""What the gateway says when Redis wrote a step, and its reply was lost."""

import asyncio
import contextlib
from urllib.parse import urlsplit

import pytest

from eventstore.log.script_runner import script
from gateway.wire.limiter import stop_accepting
from tests.integration.gateway.stage import AGENTS, gateway_stage
from tests.integration.projector.stage import POOL

STEPS = [script(name).digest.encode() for name in ("admit", "commit")]


class Proxy:
    """Forwards between the gateway and Redis, and can lose the reply to a step."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self.losing = 0
        self.ending = False
        """With the first reply that is lost Redis becomes unreachable."""
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_accepting(self._server)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        upstream, downstream = await asyncio.open_connection(*self._target)
        self._writers.append(downstream)
        written = asyncio.Event()
        for forwarding in (
            self._requests(reader, downstream, written),
            self._replies(upstream, writer, written),
        ):
            self._tasks.add(asyncio.ensure_future(forwarding))

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, written: asyncio.Event
    ) -> None:
        """Forward requests, noting steps; calls that trim or renew do not count."""
        while request := await reader.read(65_536):
            if any(step in request for step in STEPS):
                written.set()
            writer.write(request)
            await writer.drain()
        writer.close()

    async def _replies(
        self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, written: asyncio.Event
    ) -> None:
        """Forward replies; where one is to be lost, close the connection instead."""
        while reply := await upstream.read(65_536):
            if written.is_set() and self.losing:
                self.losing -= 1
                if self.ending:
                    self._server.close()
                    for each in self._writers:
                        each.close()
                writer.close()
                return
            written.clear()
            writer.write(reply)
            await writer.drain()
        writer.close()


@pytest.fixture
async def behind_proxy(redis_server, tmp_path):
    """A gateway, and the rest of its stage, that reach Redis through a proxy."""
    server = redis_server()
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with Proxy(server.url) as proxy, gateway_stage(proxy.url, database) as stage:
        stage.stage.redis_url = server.url  # the test reads the log without the proxy
        await stage.pending()  # Redis knows the scripts from here on
        yield proxy, stage


async def test_a_spawn_whose_reply_was_lost_once_is_one_agent_and_no_repetition(behind_proxy):
    proxy, stage = behind_proxy
    proxy.losing = 1
    answer = await stage.spawn(prefer="wait=0")
    assert (answer.status, proxy.losing) == (202, 0)
    assert "Idempotency-Replayed" not in answer.headers
    assert answer.json["agent_id"] in await stage.log.live(POOL)
    assert await stage.events() == ["agent.requested"] * 2


@pytest.mark.parametrize("key", ["", "mine"])
async def test_an_unknown_outcome_names_the_key_to_repeat(behind_proxy, key):
    """A request with that key again is answered as the first would have been."""
    proxy, stage = behind_proxy
    proxy.losing = 2
    unknown = await stage.spawn(prefer="wait=0", key=key)
    assert (unknown.status, unknown.kind) == (503, "outcome-unknown")
    named = unknown.json["idempotency_key"]
    assert named == key or not key
    again = await stage.spawn(prefer="wait=0", key=named)
    assert again.status == 202
    assert again.json["agent_id"] == unknown.json["agent_id"]
    assert await stage.events() == ["agent.requested"] * 2


async def test_an_end_whose_reply_was_lost_is_one_end(behind_proxy):
    proxy, stage = behind_proxy
    agent_id = await stage.pending()
    proxy.losing = 1
    answer = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert (answer.status, answer.json["status"], proxy.losing) == (200, "terminated", 0)
    assert (await stage.events()).count("agent.terminated") == 1


async def test_an_end_whose_reply_was_lost_with_redis_itself_is_unknown(behind_proxy):
    """That nothing can be read afterwards does not mean that nothing was written."""
    proxy, stage = behind_proxy
    agent_id = await stage.pending()
    proxy.losing, proxy.ending = 1, True
    answer = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert (answer.status, answer.kind, proxy.losing) == (503, "outcome-unknown", 0)
    assert (await stage.events()).count("agent.terminated") == 1
