"""Steps that are committed at the same time: together, each by itself, and in order."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from eventstore.connection.clients import Client
from eventstore.errors import LogError, OutcomeUnknown, Recovered
from eventstore.keys import Keys
from eventstore.language import workers
from eventstore.language.agent_commands import End, decide
from eventstore.language.agents import Agent
from eventstore.log import group_commit
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.steps import clauses
from eventstore.steps.step import Origin, Step
from tests.integration.projector.stage import POOL
from tests.pools import TestPool, open_pool
from tests.waiting import until


class Counting(Client):
    """How many calls of scripts there were, and how many steps they had."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.steps: list[int] = []

    async def execute_command(self, *command: str | bytes | int) -> object:
        if command[0] == "EVALSHA":
            self.steps.append(len(command) - 7)
        return await super().execute_command(*command)


@pytest.fixture
async def pool(any_redis_url: str) -> AsyncIterator[TestPool]:
    async with open_pool(any_redis_url) as pool:
        yield pool


@pytest.fixture
async def log(pool: TestPool, any_redis_url: str) -> AsyncIterator[Log]:
    client = Counting(any_redis_url)
    yield Log(client, Keys())
    await client.aclose()


def setting(log: Log, name: str, value: str, *, was: str | None = None) -> Step:
    step = log.step(POOL, Origin())
    if was is not None:
        step.check(clauses.MetaIs(name, was))
    step.write(clauses.SetMeta(name, value))
    return step


async def meta(log: Log, name: str) -> bytes:
    value: bytes = await log.client.execute_command("HGET", log.keys.pool(POOL, "meta"), name)
    return value


async def test_steps_at_the_same_time_are_one_call_and_each_sees_those_before_it(log: Log) -> None:
    assert isinstance(log.client, Counting)
    await log.commit(setting(log, "x", "0"))
    log.client.steps.clear()
    steps = [setting(log, "x", f"{n + 1}", was=f"{n}") for n in range(20)]
    steps.insert(10, setting(log, "x", "never", was="other"))
    replies = await asyncio.gather(*(log.commit(step) for step in steps))
    outcomes = [reply.outcome for reply in replies]
    assert outcomes.pop(10) is Outcome.CONFLICT
    assert set(outcomes) == {Outcome.DONE}
    assert await meta(log, "x") == b"20"
    assert log.client.steps == [21]


async def test_what_comes_meanwhile_goes_out_in_the_next_call(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(log.client, Counting)
    monkeypatch.setattr(group_commit, "STEPS_MAX", 8)
    await asyncio.gather(*(log.commit(setting(log, f"n{n}", "1")) for n in range(20)))
    assert log.client.steps == [8, 8, 4]
    log.client.steps.clear()
    monkeypatch.setattr(group_commit, "BYTES_MAX", 300)
    await asyncio.gather(*(log.commit(setting(log, f"n{n}", "x" * 200)) for n in range(3)))
    assert log.client.steps == [1, 1, 1]


async def test_a_step_that_fails_harms_none_of_its_neighbours(log: Log) -> None:
    broken = log.step(POOL, Origin())
    broken.write(clauses.DropEntry("no-id"))
    before, refused, after = await asyncio.gather(
        log.commit(setting(log, "a", "1")),
        log.commit(broken),
        log.commit(setting(log, "b", "1")),
        return_exceptions=True,
    )
    assert isinstance(refused, LogError)
    assert "script commit failed" in str(refused)
    assert [await meta(log, name) for name in ("a", "b")] == [b"1", b"1"]
    for reply in (before, after):
        assert not isinstance(reply, BaseException)
        assert reply.outcome is Outcome.DONE


async def test_a_caller_that_is_cancelled_before_its_step_is_sent_commits_nothing(log: Log) -> None:
    first = asyncio.ensure_future(log.commit(setting(log, "a", "1")))
    waits = asyncio.ensure_future(log.commit(setting(log, "b", "1")))
    await asyncio.sleep(0)
    waits.cancel()
    assert (await first).outcome is Outcome.DONE
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert await meta(log, "b") is None


async def test_a_step_of_an_earlier_generation_is_not_sent(log: Log) -> None:
    """It waited while another call learned of the recovery: versions prove nothing any more."""
    waits = asyncio.ensure_future(log.commit(setting(log, "b", "1"), read_generation=1))
    await asyncio.sleep(0)
    log.raise_high_water_mark(POOL, 2, 1)
    with pytest.raises(Recovered):
        await waits


async def test_a_lost_reply_makes_all_its_steps_unknown(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.commit(setting(log, "x", "0"))
    callers = [asyncio.ensure_future(log.commit(setting(log, f"n{n}", "1"))) for n in range(5)]
    for _ in range(4):
        await asyncio.sleep(0)
    log.client.drop()
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(one, OutcomeUnknown) for one in found), found
    assert (await log.commit(setting(log, "x", "1", was="0"))).outcome is Outcome.DONE


async def test_a_pool_without_steps_under_way_costs_nothing(log: Log) -> None:
    await asyncio.gather(*(log.commit(setting(log, f"f{n}", "1")) for n in range(3)))
    await until(lambda: not log._queues)


async def test_a_step_that_waits_for_one_that_learns_of_a_recovery_is_not_sent(log: Log) -> None:
    """It was decided on what the log was before, whether its caller says so or not."""
    await log.commit(setting(log, "x", "0"))
    log.raise_high_water_mark(POOL, 1, 1)
    waits = asyncio.ensure_future(log.commit(setting(log, "b", "1")))
    await asyncio.sleep(0)
    log.raise_high_water_mark(POOL, 2, 1)
    with pytest.raises(Recovered):
        await waits


async def test_a_worker_that_is_lost_in_a_call_ends_no_agent_later_in_it(pool: TestPool) -> None:
    """What a call knows of a worker is forgotten when a step writes it; its counters stay right."""
    await asyncio.gather(*(pool.spawn() for _ in range(3)))
    fence = await pool.worker("w")
    first, second, _ = (one.agent for one in await pool.claim(fence, starts="developer"))

    def end(agent: Agent) -> Step:
        step = pool.log.step(pool.name, Origin())
        step.check(clauses.WorkerActs(fence.worker_id, fence.epoch))
        step.agent(agent.agent_id, agent, decide(End(reason="completed"), agent), fence=fence)
        return step

    known = await pool.log.worker(pool.name, "w")
    assert known is not None
    lost, epoch = pool.log.step(pool.name, Origin()), await pool.log.allocate_epoch(pool.name)
    bodies = workers.decide(workers.DeclareLost(reason="test"), known.worker)
    lost.worker("w", known.worker, bodies, epoch=epoch)
    steps = (end(first), lost, end(second))
    replies = await asyncio.gather(*(pool.log.commit(step) for step in steps))
    assert [reply.outcome for reply in replies] == [Outcome.DONE, Outcome.DONE, Outcome.FENCED]
    survey = await pool.log.survey(pool.name)
    assert [(one.worker.status, one.agent_count) for one in survey.workers] == [("lost", 2)]
    assert (survey.free, survey.live) == (0, 2)


async def test_what_steps_counted_is_written_though_one_of_them_failed(pool: TestPool) -> None:
    await pool.worker("w", slots=4)
    broken = pool.log.step(pool.name, Origin())
    agent = Agent(agent_id="a", pool_name=pool.name, role_type="developer", project_id="p")
    broken.restore_agent(agent)
    broken.write(clauses.DropEntry("no-id"))
    replies = await asyncio.gather(
        *(pool.spawn() for _ in range(2)),
        pool.log.commit(broken, adds_load=True),
        pool.spawn(),
        return_exceptions=True,
    )
    assert sum(isinstance(reply, LogError) for reply in replies) == 1
    survey = await pool.log.survey(pool.name)
    assert (survey.waiting, survey.free, survey.live) == (4, 4, 4)
