"""Workers in this process, on a real Valkey: they claim agents, start them, and record failures."""

import asyncio

import msgspec
import pytest
from msgspec.structs import replace

from tests.integration.workers.roles import Noted, Quiet, SlowStart
from tests.worker_pool import POOL, WorkerPool, eventually
from workers.api.agent import Agent, Context
from workers.output.capture import Capture
from workers.process.registration import NotOrdered
from workers.process.worker import Worker


async def test_a_worker_needs_an_open_order(pool: WorkerPool):
    """A launch after its order expired, or a second one, must not become a worker."""
    worker = Worker(pool.options("unknown"), {}, start_time=1)
    with pytest.raises(NotOrdered):
        await worker.start()
    first = await pool.worker(Quiet)
    again = Worker(pool.options("w1"), {}, start_time=1)
    with pytest.raises(NotOrdered):
        await again.start()
    assert await pool.types("w1") == ["worker.requested", "worker.started"]
    await first.stop()


async def test_spawns_are_claimed_and_started_each_with_its_input(pool: WorkerPool):
    """The steps of one spawn, with the agent's input."""
    contexts: list[Context] = []

    class Curious(Agent):
        async def start(self, context: Context) -> None:
            contexts.append(context)

    await pool.worker(Curious)
    agent_id = await pool.spawn(
        labels={"a": "b"}, input=msgspec.Raw(b'{"n": 1}'), project_id="proj"
    )
    await pool.reached(agent_id, "running")
    assert await pool.types(agent_id) == ["agent.requested", "agent.claimed", "agent.started"]
    context = contexts[0]
    assert (context.agent_id, context.project_id, context.pool_name) == (agent_id, "proj", POOL)
    assert (context.input, context.labels, context.incarnation) == ({"n": 1}, {"a": "b"}, 1)
    claimed = next(e for e in await pool.events(agent_id) if e["type"] == "agent.claimed")
    assert str(context.fencing_token) == f"1:{claimed['seq']}"


async def test_no_worker_has_more_agents_than_slots(pool: WorkerPool):
    """Invariant 1; and a freed slot is filled at once."""
    await pool.worker(Quiet, max_agents=2)
    ids = [await pool.spawn() for _ in range(5)]

    async def running() -> list[str]:
        return [i for i in ids if (await pool.state(i)).status == "running"]

    await eventually(lambda: _count(running, 2))
    assert len(await pool.log.held(POOL, "w1")) == 2
    for _ in range(3):
        await pool.terminate((await running())[0])
        await eventually(lambda: _count(running, 2))
        assert len(await pool.log.held(POOL, "w1")) == 2


async def _count(listing, count: int) -> bool:
    return len(await listing()) == count


async def test_a_crash_is_restarted_until_the_budget_is_spent(pool: WorkerPool, calls: list[str]):
    """`agent.crashed` has the error; when the budget is spent, `agent.failed` follows."""

    class Crashing(Agent):
        async def run(self, context: Context) -> None:
            raise ValueError("boom \udcff" + "x" * 5000)

    await pool.worker(Crashing)
    agent_id = await pool.spawn()
    for incarnation in range(1, 6):
        await pool.reached(agent_id, "restarting", incarnation=incarnation)
        await pool.restart_due()
    await pool.reached(agent_id, "failed")
    error = (await pool.data(agent_id, "agent.crashed"))["error"]
    assert error["type"] == "ValueError"
    assert error["message"].startswith("boom \\udcff")
    assert len(error["message"]) == 2000
    assert "raise ValueError" in error["traceback"]
    assert "calls.py" not in error["traceback"]
    assert (await pool.types(agent_id)).count("agent.started") == 6


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_an_exception_of_an_agent_is_its_own_crash(pool: WorkerPool, exception):
    """Not the worker's: its other agents continue."""

    class Leaving(Agent):
        async def run(self, context: Context) -> None:
            raise exception

    await pool.worker({"quiet": Quiet, "leaving": Leaving})
    other = await pool.spawn(role_type="quiet")
    await pool.reached(other, "running")
    agent_id = await pool.spawn(role_type="leaving")
    await pool.reached(agent_id, "restarting")
    error = (await pool.data(agent_id, "agent.crashed"))["error"]
    assert error["type"].endswith(exception.__name__)
    assert (await pool.state(other)).status == "running"


async def test_a_subtask_that_exits_does_not_end_the_worker(pool: WorkerPool):
    """asyncio would let a SystemExit of any task end the loop."""

    class Nested(Agent):
        async def run(self, context: Context) -> None:
            async def leave() -> None:
                raise SystemExit(3)

            await asyncio.create_task(leave())

    await pool.worker(Nested)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "restarting")
    assert "AgentExit" in (await pool.data(agent_id, "agent.crashed"))["error"]["type"]


class BadStart(Agent):
    async def start(self, context: Context) -> None:
        raise RuntimeError("cannot")


class BadInit(Agent):
    def __init__(self) -> None:
        raise RuntimeError("cannot")


@pytest.mark.parametrize(
    ("role", "message"), [(BadStart, "cannot"), (SlowStart, "within 0.5 s"), (BadInit, "cannot")]
)
async def test_a_start_that_fails_is_recorded_with_its_error(pool: WorkerPool, role, message: str):
    """It raises, hangs, or cannot even be constructed."""
    await pool.worker(role, config=replace(pool.config, start_timeout_seconds=0.5))
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "restarting")
    assert message in (await pool.data(agent_id, "agent.start_failed"))["error"]["message"]
    assert await pool.log.held(POOL, "w1") == []


async def test_a_role_that_the_worker_does_not_have_is_no_failure(pool: WorkerPool):
    """The agent waits again, for that reason, and the worker ends."""
    worker = await pool.worker({})
    agent_id = await pool.spawn(role_type="other")
    reason = "role-not-declared: this worker has no role 'other'"
    assert await worker.wait() == reason
    agent = await pool.state(agent_id)
    assert (agent.status, agent.reason) == ("pending", reason)
    assert (agent.failures_in_row, agent.failures, agent.incarnation) == (0, (), 2)


async def test_a_run_that_returns_is_completed(pool: WorkerPool, calls: list[str]):
    class Short(Noted):
        async def run(self, context: Context) -> None:
            self.calls.append("run ended")

    await pool.worker(Short)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "terminated")
    assert (await pool.data(agent_id, "agent.terminated"))["reason"] == "completed"
    assert calls == ["start", "run ended", "stop"]


async def test_a_worker_that_cannot_close_all_its_parts_undoes_what_it_changed(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    """Where it shares its process with others, these go on in it."""
    worker = await pool.worker(Quiet, capture=True)

    async def fail() -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(worker._database, "close", fail)
    assert Capture.current is not None
    await worker.stop()
    assert Capture.current is None
