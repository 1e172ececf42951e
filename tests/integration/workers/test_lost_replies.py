"""Replies and connections of a worker are lost, and every agent is started once."""

import asyncio

import pytest

from tests.integration.workers.roles import Quiet
from tests.integration.workers.script_calls import is_claim, lose_replies, sends
from tests.waiting import until
from tests.worker_pool import WorkerPool
from workers.api.agent import Agent, Context


class Starting(Quiet):
    """Has a `start` of its own: it is started in a step after the claim."""

    async def start(self, context: Context) -> None:
        await asyncio.sleep(0)


@pytest.mark.parametrize("role", [Quiet, Starting])
async def test_agents_of_a_claim_whose_reply_was_lost_are_started(
    pool: WorkerPool, role: type[Agent]
):
    """The next claim returns them again."""
    worker = await pool.worker(role)
    await until(lambda: not worker._slots._wakeup.is_set())
    lost = lose_replies(worker, is_claim, 2)
    ids = await pool.running(3)  # as the log has it, maybe since the first claim
    await until(lambda: len(lost) == 2)
    for agent_id in ids:
        assert (await pool.types(agent_id)).count("agent.claimed") == 1
    await until(lambda: set(worker._slots.runs) == set(ids))


async def test_an_agent_that_was_started_in_a_lost_reply_and_is_to_end_never_runs(
    pool: WorkerPool,
):
    ran: list[str] = []

    class Running(Agent):
        async def run(self, context: Context) -> None:
            ran.append(context.agent_id)

    worker = await pool.worker(Running)
    let_claim = asyncio.Event()
    evaluate = worker._log._evaluate

    async def lose_until_terminated(source, keys, arguments):
        reply = await evaluate(source, keys, arguments)
        if is_claim(source, arguments) and not let_claim.is_set():
            raise ConnectionError("the reply never came")
        return reply

    worker._log._evaluate = lose_until_terminated  # type: ignore[method-assign]
    agent_id = await pool.spawn()
    await pool.reached(agent_id, "running")
    await pool.terminate(agent_id)
    let_claim.set()
    await pool.reached(agent_id, "terminated")
    assert ran == []


async def test_an_incarnation_that_ended_before_the_claims_reply_never_restarts(pool: WorkerPool):
    """The claim returns it as starting: it ran before the end, and its reply arrived later."""
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
        if is_claim(source, arguments) and not answered.is_set():
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
    worker = await pool.worker(Starting)
    lost = lose_replies(worker, lambda _, arguments: sends("agent.started", arguments), 1)
    (agent_id,) = await pool.running()
    await until(lambda: len(lost) == 1)
    assert (await pool.types(agent_id)).count("agent.started") == 1


async def test_agents_are_started_in_spite_of_dropped_connections(pool: WorkerPool):
    """Every connection is dropped repeatedly while spawns arrive."""
    await pool.worker(Quiet)
    ids = []
    for _ in range(10):
        ids.append(await pool.spawn())
        await pool.log.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    for agent_id in ids:
        await pool.reached(agent_id, "running")
        assert (await pool.types(agent_id)).count("agent.started") == 1
