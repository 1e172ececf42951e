"""How workers end: drained, fenced, stuck, or without Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import redis
from msgspec.structs import replace

from eventstore.connection.calls import execute
from eventstore.ids import new_id
from eventstore.language.workers import Drain
from eventstore.log.replies import ClaimedAgent
from tests.waiting import until, until_sync
from tests.worker_pool import ORIGIN, POOL, QUICK, WorkerPool, eventually, worker_pool
from workers.api.agent import Agent, Context
from workers.process.worker import Worker
from workers.runtime.slots import Slots


@pytest.fixture
async def pool(redis_url: str, tmp_path: Path) -> AsyncIterator[WorkerPool]:
    async with worker_pool(redis_url, tmp_path) as made:
        yield made


class Quiet(Agent):
    """Runs until it is stopped."""


class Deaf(Agent):
    """Ignores cancellation until the test releases it."""

    free: asyncio.Event

    async def run(self, context: Context) -> None:
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                continue


@pytest.fixture(autouse=True)
def _deaf_until_freed() -> None:
    Deaf.free = asyncio.Event()


async def running(pool: WorkerPool, count: int, **request) -> list[str]:
    ids = [await pool.spawn(**request) for _ in range(count)]
    for agent_id in ids:
        await pool.reached(agent_id, "running")
    return ids


def sends(event_type: str, arguments: Sequence[object]) -> bool:
    """Whether a call of a script commits an event of this type."""
    return any(isinstance(a, bytes) and event_type.encode() in a for a in arguments)


async def test_a_drain_releases_every_agent_and_stops_the_worker(pool: WorkerPool):
    """They are requeued as their next incarnation, and another worker runs them."""
    worker = await pool.worker(Quiet)
    ids = await running(pool, 3)
    worker.request_drain("shut-down")
    await worker.wait()
    assert worker.exit_code == 0
    assert (await pool.types("w1"))[-2:] == ["worker.draining", "worker.stopped"]
    for agent_id in ids:
        state = await pool.state(agent_id)
        assert (state.status, state.incarnation) == ("pending", 2)
        assert (await pool.data(agent_id, "agent.released"))["reason"] == "shut-down"
    await pool.worker(Quiet)
    for agent_id in ids:
        await pool.reached(agent_id, "running", incarnation=2)


async def test_agents_that_are_starting_are_released_too(pool: WorkerPool):
    class Slow(Agent):
        async def start(self, context: Context) -> None:
            await asyncio.Event().wait()

    pool.config = replace(QUICK, start_timeout_seconds=30)
    worker = await pool.worker(Slow)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "starting")
    worker.request_drain("shut-down")
    await worker.wait()
    assert (await pool.state(agent_id)).status == "pending"


async def test_a_slow_stop_is_cancelled_in_time_to_release_the_agent(pool: WorkerPool):
    """The drain ends before the agent's grace does."""

    class Dallying(Agent):
        async def stop(self, context: Context) -> None:
            await asyncio.Event().wait()

    pool.config = replace(QUICK, stop_grace_seconds=600, drain_seconds=2)
    worker = await pool.worker(Dallying)
    (agent_id,) = await running(pool, 1)
    started = time.monotonic()
    worker.request_drain("shut-down")
    await worker.wait()
    assert time.monotonic() - started < 3
    assert (await pool.state(agent_id)).status == "pending"
    assert worker.exit_code == 0


async def test_a_drain_ends_an_agent_with_the_termination_flag(pool: WorkerPool):
    """A termination is concurrent with a shut-down."""
    worker = await pool.worker(Quiet)
    (agent_id,) = await running(pool, 1)
    worker._slots.apply_stop_flags = lambda *flag: None  # type: ignore[method-assign]  # no message
    await pool.terminate(agent_id)
    worker.request_drain("shut-down")
    await worker.wait()
    assert (await pool.state(agent_id)).status == "terminated"
    assert "agent.released" not in await pool.types(agent_id)


async def test_a_worker_that_stopped_properly_does_not_consider_itself_lost(pool: WorkerPool):
    """After `worker.stopped` a renewal would be refused as FENCED."""
    worker = await pool.worker(Quiet)
    evaluate = worker._log._evaluate

    async def delay_the_reply(source, keys, arguments):
        reply = await evaluate(source, keys, arguments)
        if sends("worker.stopped", arguments):
            await asyncio.sleep(3 * QUICK.renew_seconds)
        return reply

    worker._log._evaluate = delay_the_reply  # type: ignore[method-assign]
    await worker.stop()
    assert (await worker.wait(), worker.exit_code) == ("stop", 0)


@pytest.mark.parametrize("part", ["claiming", "listening"])
async def test_a_worker_drains_if_a_part_of_it_fails(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, part: str
):
    """Else it would keep its lease and its free slots, which would never be filled."""
    owner, name = (Slots, "_claim") if part == "claiming" else (Worker, "_on_message")
    original, failing = getattr(owner, name), False

    def fail_once(self: object, argument: object) -> object:
        nonlocal failing
        if failing:
            failing = False
            raise RuntimeError("a defect")
        return original(self, argument)

    monkeypatch.setattr(owner, name, fail_once)
    worker = await pool.worker(Quiet)
    ids = await running(pool, 2)
    failing = True
    await pool.spawn()  # which wakes it
    assert await asyncio.wait_for(worker.wait(), 10) == "defect"
    assert worker.exit_code == 0
    assert (await pool.types("w1"))[-2:] == ["worker.draining", "worker.stopped"]
    assert (await pool.data("w1", "worker.draining"))["reason"] == "defect"
    for agent_id in ids:
        assert (await pool.state(agent_id)).status == "pending"


async def test_an_agent_that_cannot_be_withdrawn_ends_with_its_worker(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    """Its slot would never be free again."""

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    claimed = await pool.state(await pool.spawn())  # as a claim returns one that is to end
    worker = await pool.worker(Quiet)
    await pool.reached(claimed.agent_id, "running")
    monkeypatch.setattr(worker._pool_log, "act", fail)
    worker._slots._accept(ClaimedAgent(replace(claimed, agent_id=new_id()), b""))
    assert await asyncio.wait_for(worker.wait(), 15) == "stuck"
    assert worker.exit_code == 77


async def test_the_leader_drains_an_empty_worker(pool: WorkerPool):
    """`worker.draining` is written by another process, with a message to the worker."""
    worker = await pool.worker(Quiet)
    await pool.log.act_on_worker(POOL, "w1", Drain(reason="empty"), ORIGIN)
    assert await asyncio.wait_for(worker.wait(), 15) == "drain"
    assert (await pool.types("w1"))[-2:] == ["worker.draining", "worker.stopped"]


async def test_stop_may_be_called_twice(pool: WorkerPool):
    worker = await pool.worker(Quiet)
    await worker.stop()
    await worker.stop()
    assert await worker.wait() == "stop"
    assert (await pool.types("w1")).count("worker.stopped") == 1


async def test_a_fenced_worker_cancels_its_agents_and_writes_nothing(pool: WorkerPool):
    """Invariant 4: no event has an older epoch than a fence before it."""
    ended = asyncio.Event()

    class Noting(Agent):
        async def run(self, context: Context) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    worker = await pool.worker(Noting)
    await running(pool, 1)
    await pool.fence("w1")
    before = len(await pool.events())
    assert await asyncio.wait_for(worker.wait(), 15) == "fenced"
    assert ended.is_set()
    assert worker.exit_code != 0
    assert len(await pool.events()) == before


async def test_a_fenced_worker_does_not_write_the_ends_of_its_agents(pool: WorkerPool):
    """The agent ends before the worker has noticed the fence."""
    go = asyncio.Event()

    class Crashing(Agent):
        async def run(self, context: Context) -> None:
            await go.wait()
            raise RuntimeError

    pool.config = replace(QUICK, renew_seconds=2.0)
    worker = await pool.worker(Crashing)
    await running(pool, 1)
    await pool.fence("w1")
    before = len(await pool.events())
    go.set()
    assert await asyncio.wait_for(worker.wait(), 15) == "fenced"
    assert len(await pool.events()) == before


async def test_an_agent_that_cannot_be_ended_ends_the_worker(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    """The others are released; nothing is written of the stuck one, which still runs."""
    monkeypatch.setattr("workers.runtime.calls.STUCK_SECONDS", 1)
    worker = await pool.worker({"role": Quiet, "deaf": Deaf})
    (other,) = await running(pool, 1)
    (deaf,) = await running(pool, 1, role_type="deaf")
    await pool.terminate(deaf)
    assert await asyncio.wait_for(worker.wait(), 20) == "stuck"
    assert (await pool.types(deaf))[-1] == "agent.termination_requested"
    assert (await pool.state(other)).status == "pending"
    assert "worker.stopped" not in await pool.types("w1")
    Deaf.free.set()


# ---- without Redis -----------------------------------------------------------------------------


async def test_after_a_claim_whose_reply_was_lost_no_agent_is_forgotten(pool: WorkerPool):
    """The next claim returns the booked agents again."""
    worker = await pool.worker(Quiet)
    await until(lambda: not worker._slots._wakeup.is_set())
    evaluate, lost = worker._log._evaluate, 0

    async def lose_claims(source, keys, arguments):
        nonlocal lost
        reply = await evaluate(source, keys, arguments)
        if "XREADGROUP" in source.text and lost < 2:
            lost += 1
            raise ConnectionError("the reply never came")
        return reply

    worker._log._evaluate = lose_claims  # type: ignore[method-assign]
    ids = await running(pool, 3)
    assert lost == 2
    for agent_id in ids:
        assert (await pool.types(agent_id)).count("agent.claimed") == 1


async def test_an_incarnation_that_ended_before_the_claims_reply_never_restarts(pool: WorkerPool):
    """The claim returns it as starting: it ran before the end, and its reply came after."""
    let_fail, answered = asyncio.Event(), asyncio.Event()
    starts: list[str] = []

    class Failing(Agent):
        async def start(self, context: Context) -> None:
            starts.append(context.agent_id)
            await let_fail.wait()
            raise ValueError("as requested")

    worker = await pool.worker(Failing)
    agent_id = await pool.spawn()
    await until(lambda: starts)
    evaluate = worker._log._evaluate

    async def answer_claims_late(source, keys, arguments):
        reply = await evaluate(source, keys, arguments)
        if "XREADGROUP" in source.text and not answered.is_set():
            let_fail.set()
            await until(lambda: agent_id not in worker._slots.runs)
            answered.set()
        return reply

    worker._log._evaluate = answer_claims_late  # type: ignore[method-assign]
    worker._slots.wake(redeliver=True)
    await answered.wait()
    other = await pool.spawn()
    await until(lambda: other in starts)
    assert starts == [agent_id, other]
    assert (await pool.state(agent_id)).status == "restarting"


async def test_a_settle_whose_reply_was_lost_is_written_once(pool: WorkerPool):
    worker = await pool.worker(Quiet)
    evaluate, lost = worker._log._evaluate, 0

    async def lose_settles(source, keys, arguments):
        nonlocal lost
        reply = await evaluate(source, keys, arguments)
        if sends("agent.started", arguments) and lost < 1:
            lost += 1
            raise ConnectionError("the reply never came")
        return reply

    worker._log._evaluate = lose_settles  # type: ignore[method-assign]
    (agent_id,) = await running(pool, 1)
    assert lost == 1
    assert (await pool.types(agent_id)).count("agent.started") == 1


async def test_with_dropped_connections_no_agent_is_forgotten(pool: WorkerPool):
    """Every connection is dropped repeatedly while spawns arrive."""
    await pool.worker(Quiet)
    ids = []
    for _ in range(10):
        ids.append(await pool.spawn())
        await execute(pool.log.client, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    for agent_id in ids:
        await pool.reached(agent_id, "running")
        assert (await pool.types(agent_id)).count("agent.started") == 1


async def test_an_outage_shorter_than_the_lease_ends_no_agent(redis_server, tmp_path: Path):
    """Agents continue, and what happened meanwhile is written afterwards."""
    server = redis_server()
    go = asyncio.Event()

    class Finishing(Agent):
        async def run(self, context: Context) -> None:
            await go.wait()

    async with worker_pool(server.url, tmp_path) as pool:
        await pool.worker(Finishing)
        (agent_id,) = await running(pool, 1)
        server.pause()
        go.set()
        await asyncio.sleep(0.5)  # an outage lasts
        server.resume()
        await pool.reached(agent_id, "terminated")


async def ends_with_its_lease(worker: Worker, ended: asyncio.Event) -> None:
    """The agent has ended before its lease of 1.5 s; Redis has just stopped answering."""
    started = time.monotonic()
    await asyncio.wait_for(ended.wait(), 10)
    assert time.monotonic() - started < 1.5
    assert await asyncio.wait_for(worker.wait(), 10) == "lease-expired"


async def test_without_redis_the_lease_ends_and_the_agents_with_it(redis_server, tmp_path: Path):
    """By its own clock the worker ends before any other worker may run its agents."""
    server = redis_server()
    started, ended = asyncio.Event(), asyncio.Event()

    class Noting(Agent):
        async def run(self, context: Context) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    config = replace(QUICK, lease_seconds=1.5)
    async with worker_pool(server.url, tmp_path, config) as pool:
        worker = await pool.worker(Noting)
        await pool.spawn()
        await asyncio.wait_for(started.wait(), 5)
        server.pause()
        await ends_with_its_lease(worker, ended)
        server.resume()


async def test_an_agent_whose_start_was_never_answered_ends_with_the_lease(
    redis_server, tmp_path: Path
):
    """A write about it that is under way when Redis stops answering is not awaited."""
    server = redis_server()
    paused, ended = asyncio.Event(), asyncio.Event()

    class Noting(Agent):
        async def start(self, context: Context) -> None:
            self.work = asyncio.create_task(self.note())
            await asyncio.sleep(0)
            server.pause()
            paused.set()

        async def note(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    config = replace(QUICK, lease_seconds=1.5)
    async with worker_pool(server.url, tmp_path, config) as pool:
        worker = await pool.worker(Noting)
        await pool.spawn()
        await asyncio.wait_for(paused.wait(), 5)
        await ends_with_its_lease(worker, ended)
        server.resume()


def renewals(client: redis.Redis) -> int:
    return int(client.xlen(f"pool:{{{POOL}}}:heartbeats"))


async def test_a_busy_loop_keeps_the_lease_for_a_while(pool: WorkerPool):
    """Renewal has a thread of its own."""
    pool.config = replace(QUICK, loop_stall_seconds=20.0)
    worker = await pool.worker(Quiet)
    await running(pool, 1)
    with redis.Redis.from_url(pool.url) as client:
        enough = renewals(client) + 4
        until_sync(lambda: renewals(client) >= enough)  # the stall: the loop does not turn
    assert not worker._lost_reason


async def test_a_loop_that_stalls_for_too_long_loses_the_lease(pool: WorkerPool):
    pool.config = replace(QUICK, loop_stall_seconds=0.5, lease_seconds=1.0)
    worker = await pool.worker(Quiet)
    time.sleep(1.6)  # the stall: nothing is renewed any more after a third of it
    assert await asyncio.wait_for(worker.wait(), 10) == "lease-expired"


async def test_a_live_suspect_recovers(pool: WorkerPool):
    from eventstore.language.workers import Suspect

    await pool.worker(Quiet)
    await pool.log.act_on_worker(POOL, "w1", Suspect(reason="late"), ORIGIN)

    async def active() -> bool:
        observed = await pool.log.worker(POOL, "w1")
        return observed is not None and observed.worker.status == "active"

    await eventually(active)


async def test_heartbeats_report_which_agents_are_idle(pool: WorkerPool):
    class Working(Agent):
        async def run(self, context: Context) -> None:
            await asyncio.Event().wait()

    await pool.worker({"role": Quiet, "working": Working})
    (idle,) = await running(pool, 1)
    (busy,) = await running(pool, 1, role_type="working")

    async def reported() -> bool:
        heartbeats = await pool.entries("heartbeats")
        data = heartbeats[-1]["data"] if heartbeats else ""
        return f'"{idle}":"idle"' in data and f'"{busy}":"busy"' in data

    await eventually(reported)
