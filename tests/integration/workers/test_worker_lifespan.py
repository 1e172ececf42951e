"""What the agents of a worker share: made before the first claim, closed after the last end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec import Raw
from msgspec.json import encode
from msgspec.structs import replace

from tests.worker_pool import QUICK, WorkerPool
from workers.api.agent import Agent, Context, WorkerInfo
from workers.api.role_loader import load
from workers.process import registration
from workers.process.registration import ShutdownResult

EXAMPLE = Path(__file__).parents[3] / "docs/examples/shared"


class Sharing(Agent):
    """Notes what happens; its lifespan can be told to misbehave."""

    notes: list[Any]
    ended: asyncio.Event

    @classmethod
    @asynccontextmanager
    async def worker_lifespan(cls, worker: WorkerInfo) -> AsyncIterator[object]:
        async with asyncio.TaskGroup() as group, asyncio.timeout(60):
            group.create_task(cls.serve())
            cls.notes.append(("set up", worker.role_type))
            task = asyncio.current_task()
            yield cls.notes
            assert asyncio.current_task() is task
            cls.ended.set()
        cls.notes.append(("torn down",))

    @classmethod
    async def serve(cls) -> None:
        await cls.ended.wait()

    async def start(self, context: Context) -> None:
        assert context.shared is self.notes
        self.notes.append(("start",))

    async def stop(self, context: Context) -> None:
        self.notes.append(("stop",))


def sharing(base: type[Sharing] = Sharing) -> type[Sharing]:
    return type("Test", (base,), {"notes": [], "ended": asyncio.Event()})


async def test_it_is_entered_once_before_the_agents_and_left_after_them(pool: WorkerPool):
    role = sharing()
    worker = await pool.worker(role, role="role")
    await pool.running(2)
    await worker.stop()
    start, stop = ("start",), ("stop",)
    assert role.notes == [("set up", "role"), start, start, stop, stop, ("torn down",)]
    assert (await pool.types("w1"))[-1] == "worker.stopped"


async def test_it_is_left_too_when_the_lease_is_lost(pool: WorkerPool):
    role = sharing()
    worker = await pool.worker(role, role="role")
    await pool.running()
    await pool.fence("w1")
    assert await asyncio.wait_for(worker.wait(), 10) == "fenced"
    assert role.notes[-1] == ("torn down",)


class Raising(Sharing):
    @classmethod
    @asynccontextmanager
    async def worker_lifespan(cls, worker: WorkerInfo) -> AsyncIterator[object]:
        if worker.pool_name:
            raise ValueError("no such model")
        yield cls.notes


class Hanging(Sharing):
    @classmethod
    @asynccontextmanager
    async def worker_lifespan(cls, worker: WorkerInfo) -> AsyncIterator[object]:
        await asyncio.Event().wait()
        yield cls.notes


class Forgetful(Sharing):
    @classmethod
    async def worker_lifespan(cls, worker: WorkerInfo) -> object:  # type: ignore[override]
        return None


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (Raising, "ValueError: no such model"),
        (Hanging, "took more than 0.2 s"),
        (Forgetful, "TypeError: worker_lifespan must be an async context manager"),
    ],
)
async def test_if_it_fails_the_worker_ends_and_no_agent_was_claimed(
    pool: WorkerPool, base: type[Sharing], reason: str
):
    pool.config = replace(QUICK, start_timeout_seconds=0.2)
    agent_id = await pool.spawn()
    worker = await pool.worker(sharing(base), role="role")
    await asyncio.wait_for(worker.wait(), 10)
    said = (await pool.data("w1", "worker.stopped"))["reason"]
    assert said.startswith("setup-failed: role 'role' (")
    assert reason in said
    assert (await pool.state(agent_id)).status == "pending"
    assert await pool.types(agent_id) == ["agent.requested"]


async def test_if_it_ends_by_itself_the_worker_is_drained(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    """What the agents share is gone. Nothing ordered that, so it is the loss of the worker."""
    monkeypatch.setattr(registration, "ORDER_SECONDS", 0.2)

    class Breaking(Sharing):
        @classmethod
        async def serve(cls) -> None:
            await cls.ended.wait()
            raise ConnectionError("the server hung up")

    role = sharing(Breaking)
    worker = await pool.worker(role, role="role")
    (agent_id,) = await pool.running()
    role.ended.set()
    await asyncio.wait_for(worker.wait(), 10)
    assert worker.exit_code == ShutdownResult.NOT_ORDERED
    reason = (await pool.data("w1", "worker.draining"))["reason"]
    assert reason.startswith("lifespan-failed: role 'role'")
    assert (await pool.state(agent_id)).status == "running", "its reaper decides what follows"


async def test_a_tear_down_that_hangs_is_cancelled(pool: WorkerPool):
    class Lingering(Sharing):
        @classmethod
        @asynccontextmanager
        async def worker_lifespan(cls, worker: WorkerInfo) -> AsyncIterator[object]:
            yield cls.notes
            await asyncio.Event().wait()

    pool.config = replace(QUICK, stop_grace_seconds=0.2)
    worker = await pool.worker(sharing(Lingering), role="role")
    await pool.running()
    await asyncio.wait_for(worker.stop(), 5)
    assert (await pool.types("w1"))[-1] == "worker.stopped"


async def test_the_example_of_the_documents_runs(pool: WorkerPool):
    """One process pool and one client for both agents; both are closed with the worker."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="page")

    role = load("hashers.agent:Hasher", str(EXAMPLE)).role
    app = web.Application()
    app.router.add_get("/", page)
    async with TestServer(app) as server:
        worker = await pool.worker(role, role="role")
        asked = {"input": Raw(encode({"url": str(server.make_url("/"))}))}
        agents = [await pool.spawn(**asked) for _ in range(2)]
        for agent_id in agents:
            ended = await pool.reached(agent_id, "terminated")
            assert ended.reason == "completed"
        shared = worker._setup.shared
        await worker.stop()
    assert shared.http.closed  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="after shutdown"):
        shared.processes.submit(print)  # type: ignore[attr-defined]


async def test_an_async_generator_without_a_decorator_is_accepted(pool: WorkerPool):
    class Plain(Sharing):
        @classmethod
        async def worker_lifespan(cls, worker: WorkerInfo) -> AsyncIterator[object]:  # type: ignore[override]
            yield cls.notes
            cls.notes.append("left")

    role = sharing(Plain)
    worker = await pool.worker(role, role="role")
    await pool.running()
    await worker.stop()
    assert role.notes == [("start",), ("stop",), "left"]
