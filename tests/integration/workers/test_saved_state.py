"""State that moves: over releases, crashes, losses of workers, and never an older one."""

import asyncio
import hashlib
import random

import msgspec
import pytest
import redis

from eventstore.language.agent_commands import FindState, MarkLost, RequestRestart
from eventstore.language.durability import Level
from muster import Agent, Context, SaveFailed
from tests.pools import data, raw_events
from tests.waiting import until
from tests.worker_pool import ORIGIN, POOL, WorkerPool

SAVES = msgspec.Raw(b'{"saves":true}')
RELEASED_WITH = ["agent.saved", "agent.released"]


class Counter(Agent):
    """Counts its incarnations; saves while it runs where its input says so."""

    def __init__(self) -> None:
        self.count = 0

    async def restore(self, state: bytes) -> None:
        self.count = int(state)

    async def start(self, context: Context) -> None:
        self.count += 1
        if context.input.get("saves"):
            await context.save()

    async def save(self) -> bytes:
        return str(self.count).encode()


def stored(url: str, agent_id: str) -> bytes | None:
    with redis.Redis.from_url(url) as client:
        state: bytes | None = client.get(f"state:{{{POOL}}}:{agent_id}")
        return state


def kinds(url: str, agent_id: str) -> list[str]:
    return [event["type"] for event in raw_events(url, POOL) if event["subject"] == agent_id]


async def test_a_release_saves_in_the_same_step_and_the_next_incarnation_gets_it(
    pool: WorkerPool,
) -> None:
    first = await pool.worker(Counter)
    [agent_id] = await pool.running()
    assert stored(pool.url, agent_id) is None
    await first.stop()
    assert kinds(pool.url, agent_id)[-2:] == RELEASED_WITH
    [saved] = [e for e in raw_events(pool.url, POOL) if e["type"] == "agent.saved"]
    sha256 = hashlib.sha256(b"1").hexdigest()
    assert data(saved) == {"save": 1, "size": 1, "sha256": sha256}
    assert stored(pool.url, agent_id) == b"1"
    second = await pool.worker(Counter)
    await pool.reached(agent_id, "running", incarnation=2)
    await second.stop()
    assert stored(pool.url, agent_id) == b"2"
    agent = await pool.state(agent_id)
    assert (agent.save, agent.incarnation) == (2, 3)
    await pool.terminate(agent_id)
    assert stored(pool.url, agent_id) is None


async def test_what_was_saved_while_it_ran_survives_the_loss_of_its_worker(
    pool: WorkerPool,
) -> None:
    worker = await pool.worker(Counter)
    [agent_id] = await pool.running(input=SAVES)
    worker.abandon("killed")
    await worker.wait()
    await pool.fence("w1")
    lost = MarkLost(worker_id="w1", reason="killed", now_ms=pool.log.now_ms(POOL))
    await pool.log.act(POOL, agent_id, lost, ORIGIN)
    await pool.worker(Counter)
    await pool.reached(agent_id, "running", incarnation=2)
    assert stored(pool.url, agent_id) == b"2"


async def test_a_worker_that_was_fenced_saves_nothing(pool: WorkerPool) -> None:
    contexts: list[Context] = []

    class Kept(Counter):
        async def start(self, context: Context) -> None:
            contexts.append(context)

    await pool.worker(Kept)
    [agent_id] = await pool.running()
    await pool.fence("w1")
    with pytest.raises(SaveFailed):
        await contexts[0].save()
    assert stored(pool.url, agent_id) is None


async def test_a_worker_that_drains_unasked_saves_what_it_leaves_to_its_reaper(
    pool: WorkerPool,
) -> None:
    worker = await pool.worker(Counter)
    [agent_id] = await pool.running()
    worker.request_drain("signal", ordered=False)
    await worker.wait()
    assert stored(pool.url, agent_id) == b"1"
    assert kinds(pool.url, agent_id)[-1] == "agent.saved"


async def test_a_key_of_another_type_is_no_state(pool: WorkerPool) -> None:
    first = await pool.worker(Counter)
    [agent_id] = await pool.running()
    await first.stop()
    with redis.Redis.from_url(pool.url) as client:
        client.delete(f"state:{{{POOL}}}:{agent_id}")
        client.hset(f"state:{{{POOL}}}:{agent_id}", "a", "b")
    await pool.worker(Counter)
    await until(lambda: kinds(pool.url, agent_id)[-1] == "agent.state_lost", what="it waits")


@pytest.mark.parametrize("found", [b"9", None], ids=["an older one", "none"])
async def test_without_the_last_state_an_agent_waits(pool: WorkerPool, found: bytes | None) -> None:
    first = await pool.worker(Counter)
    [agent_id] = await pool.running()
    await first.stop()
    with redis.Redis.from_url(pool.url) as client:
        key = f"state:{{{POOL}}}:{agent_id}"
        if found is None:
            client.delete(key)
        else:
            client.set(key, found)
    second = await pool.worker(Counter)
    await until(lambda: kinds(pool.url, agent_id)[-1] == "agent.state_lost", what="it waits")
    agent = await pool.state(agent_id)
    assert (agent.status, agent.reason, agent.state_lost) == ("pending", "state-lost", True)
    assert not await pool.log.held(POOL, "w2")
    asked = await pool.log.act(POOL, agent_id, RequestRestart(reason="x"), ORIGIN)
    assert asked.outcome == "ALREADY"
    if found is None:
        without = RequestRestart(reason="x", discard_state=True)
        await pool.log.act(POOL, agent_id, without, ORIGIN)
        await pool.reached(agent_id, "running", incarnation=3)
        await second.stop()
        assert stored(pool.url, agent_id) == b"1"
    else:
        await pool.log.act(POOL, agent_id, FindState(), ORIGIN, state=b"1")
        await pool.reached(agent_id, "running", incarnation=3)
        await second.stop()
        assert stored(pool.url, agent_id) == b"2"


async def test_a_state_is_discarded_while_its_agent_runs(pool: WorkerPool) -> None:
    await pool.worker(Counter)
    [agent_id] = await pool.running(input=SAVES)
    without = RequestRestart(reason="x", discard_state=True)
    await pool.log.act(POOL, agent_id, without, ORIGIN)
    assert stored(pool.url, agent_id) is None
    await pool.reached(agent_id, "running", incarnation=2)
    await until(lambda: stored(pool.url, agent_id) == b"1", what="it counts from the first")


async def test_a_save_that_is_not_as_durable_as_commands_are_is_not_acknowledged(
    pool: WorkerPool,
) -> None:
    """This server writes no append-only file."""
    errors = list[str]()

    class Careful(Counter):
        async def run(self, context: Context) -> None:
            try:
                await context.save()
            except SaveFailed as error:
                errors.append(str(error))

    await pool.worker(Careful, durability=Level.FSYNCED)
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "terminated")
    assert "the state was stored, but is not as durable as asked" in errors[0]


async def test_a_state_of_one_mebibyte_of_any_bytes_comes_back(pool: WorkerPool) -> None:
    content, restored = random.randbytes(2**20), list[bytes]()

    class Large(Counter):
        async def restore(self, state: bytes) -> None:
            restored.append(state)

        async def save(self) -> bytes:
            return content

    first = await pool.worker(Large)
    [agent_id] = await pool.running()
    await first.stop()
    await pool.worker(Large)
    await pool.reached(agent_id, "running", incarnation=2)
    assert restored == [content]


async def test_near_redis_memory_limit_a_save_is_refused_and_a_release_goes_on(
    pool: WorkerPool,
) -> None:
    limited, errors = asyncio.Event(), list[str]()

    class Large(Counter):
        async def run(self, context: Context) -> None:
            await limited.wait()
            try:
                await context.save()
            except SaveFailed as error:
                errors.append(str(error))
            await asyncio.Event().wait()

        async def save(self) -> bytes:
            return b"x" * 2**20

    worker = await pool.worker(Large)
    [agent_id] = await pool.running()
    with redis.Redis.from_url(pool.url) as client:
        client.config_set("maxmemory", "1mb")
        try:
            limited.set()
            await until(lambda: errors, what="its save is refused")
            await worker.stop()
        finally:
            client.config_set("maxmemory", "0")
    assert "memory limit" in errors[0]
    [released] = [e for e in raw_events(pool.url, POOL) if e["type"] == "agent.released"]
    assert "memory limit" in data(released)["save_error"]
    assert stored(pool.url, agent_id) is None
