"""Placing on real servers: the leader hands agents over, and the script holds what it promises."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import redis

from eventstore.ids import new_id
from eventstore.language import workers
from eventstore.language.agent_commands import Terminate
from eventstore.language.agents import Status
from eventstore.log.placing import PLACER, Assignment, place
from eventstore.log.replies import Leadership, Outcome
from eventstore.log.submission import SubmitResult
from eventstore.steps import clauses
from eventstore.steps.step import Fence
from tests.pools import ORIGIN, TestPool, data, open_pool, raw_events, types
from workers.supervisor.reaper import requeue_unclaimed

POOL = "developer_pool"


@asynccontextmanager
async def placed_pool(url: str) -> AsyncIterator[tuple[TestPool, Leadership]]:
    async with open_pool(url) as pool:
        _, lead = await pool.log.lead(POOL, "h", 0)
        await set_placed(pool, "1")
        yield pool, lead


async def set_placed(pool: TestPool, value: str) -> None:
    step = pool.pool_log.step()
    step.write(clauses.SetMeta("placed", value), clauses.WakeWorkers())
    assert (await pool.log.commit(step)).outcome is Outcome.DONE


async def spawn(pool: TestPool, count: int) -> list[str]:
    return [one.agent_id for one in await asyncio.gather(*(pool.spawn() for _ in range(count)))]


def to(fence: Fence, agents: Sequence[str], incarnation: int = 1) -> list[Assignment]:
    return [Assignment(one, incarnation, fence.worker_id, fence.epoch) for one in agents]


async def test_placed_agents_are_in_their_workers_slots_and_fetched_once(
    any_redis_url: str,
) -> None:
    async with placed_pool(any_redis_url) as (pool, lead):
        first, second = await pool.worker("w1"), await pool.worker("w2")
        agents = await spawn(pool, 3)
        assert await pool.claim(first) == [], "what a placer is to place is not claimed"
        wanted = [*to(first, agents[:1]), *to(second, agents[1:])]
        assert await place(pool.pool_log, lead, wanted) == ["placed"] * 3
        survey = await pool.log.survey(POOL)
        assert (survey.waiting, survey.free) == (0, 17)
        fetched = [one.agent for one in await pool.claim(second)]
        assert {one.agent_id for one in fetched} == {*agents[1:]}
        assert {(one.status, one.worker_id) for one in fetched} == {(Status.STARTING, "w2")}
        assert await pool.claim(second) == []
        again = await pool.claim(second, again=True)
        assert {one.agent.agent_id for one in again} == {*agents[1:]}, "a reply was lost"
    with redis.Redis.from_url(any_redis_url, decode_responses=True) as client:
        pending = client.xpending_range(f"pool:{{{POOL}}}:commands", "workers", "-", "+", 10)
        assert Counter(one["consumer"] for one in pending) == {"w1": 1, "w2": 2}
        assert client.lrange(f"pool:{{{POOL}}}:inbox:w2", 0, -1) == ["work"]
    claims = [one for one in raw_events(any_redis_url) if one["type"] == "agent.claimed"]
    assert {one["actor"] for one in claims} == {"supervisor:h"}
    assert all(one["epoch"] and one["causation_id"] for one in claims)


async def test_what_has_nothing_to_do_before_it_runs_is_started_as_it_is_fetched(
    any_redis_url: str,
) -> None:
    async with placed_pool(any_redis_url) as (pool, lead):
        fence = await pool.worker("w")
        agents = await spawn(pool, 2)
        await place(pool.pool_log, lead, to(fence, agents))
        await pool.log.act(POOL, agents[0], Terminate(), ORIGIN)
        found = {
            one.agent.agent_id: one.agent for one in await pool.claim(fence, starts="developer")
        }
        stored = [await pool.log.agent(POOL, agent_id) for agent_id in agents]
    assert [found[agent_id] for agent_id in agents] == stored
    assert [one.status for one in stored if one] == [Status.STARTING, Status.RUNNING]
    assert types(any_redis_url)[-1] == "agent.started"
    with redis.Redis.from_url(any_redis_url) as client:
        assert client.xlen(f"pool:{{{POOL}}}:commands") == 0, "both are settled"


async def test_what_has_changed_since_is_refused(any_redis_url: str) -> None:
    async with placed_pool(any_redis_url) as (pool, lead):
        fence, small = await pool.worker("w"), await pool.worker("small", slots=1)
        draining, lost = await pool.worker("draining"), await pool.worker("lost")
        await pool.log.act_on_worker(POOL, "draining", workers.Drain(reason="t"), ORIGIN)
        await pool.fence("lost")
        stalled = await pool.worker("stalled")
        await pool.log.client.execute_command("HSET", f"pool:{{{POOL}}}:stalled", "stalled", "x")
        agents = await spawn(pool, 3)
        ended = (await spawn(pool, 1))[0]
        await pool.log.act(POOL, ended, Terminate(), ORIGIN)
        wanted = [
            *to(draining, agents[:1]),
            *to(lost, agents[:1]),
            *to(stalled, agents[:1]),
            *to(Fence("w", fence.epoch + 1), agents[:1]),
            *to(fence, agents[:1], incarnation=2),
            *to(fence, [ended, new_id()]),
            *to(small, agents[:2]),
            *to(fence, [agents[0], agents[1], agents[1]]),
        ]
        assert await place(pool.pool_log, lead, wanted) == [
            *["worker"] * 4,
            *["agent"] * 3,
            *["placed", "worker"],
            *["agent", "placed", "agent"],
        ]
        other = Leadership("h2", lead.term, 0)
        assert await place(pool.pool_log, other, to(fence, agents[2:])) == ["unread"]
        _, next_lead = await pool.log.lead(POOL, "h2", 0, stale=lead)
        assert await place(pool.pool_log, lead, to(fence, agents[2:])) == ["unread"]
        assert await place(pool.pool_log, next_lead, to(fence, agents[2:])) == ["placed"]


async def test_the_next_leader_goes_on_with_what_was_read_and_not_handed_over(
    any_redis_url: str,
) -> None:
    async with placed_pool(any_redis_url) as (pool, lead):
        fence = await pool.worker("w")
        agents = await spawn(pool, 5)
        assert await place(pool.pool_log, lead, to(fence, agents[:1])) == ["placed"]
        summary = await pool.log.client.execute_command(
            "XPENDING", f"pool:{{{POOL}}}:commands", "workers"
        )
        assert sorted(summary[3]) == [[PLACER.encode(), b"4"], [b"w", b"1"]]
        _, heir = await pool.log.lead(POOL, "h2", 0, stale=lead)
        assert await place(pool.pool_log, heir, to(fence, agents[1:])) == ["placed"] * 4
        assert len(await pool.claim(fence)) == 5


async def test_no_worker_gets_more_than_its_slots_whoever_places_and_claims(
    any_redis_url: str,
) -> None:
    async with placed_pool(any_redis_url) as (pool, lead):
        fences = [await pool.worker(f"w{n}", slots=3) for n in range(4)]
        agents = await spawn(pool, 40)

        async def switch() -> None:
            for _ in range(5):
                await set_placed(pool, "0")
                await asyncio.sleep(0)
                await set_placed(pool, "1")

        work = [place(pool.pool_log, lead, to(fence, agents)) for fence in fences]
        work += [place(pool.pool_log, lead, to(fence, agents[::-1])) for fence in fences]
        claims = [pool.claim(fence) for fence in fences for _ in range(3)]
        await asyncio.gather(switch(), *work, *claims)
        survey = await pool.log.survey(POOL)
        held = [await pool.log.held(POOL, fence.worker_id) for fence in fences]
    assert [o.agent_count for o in survey.workers] == [3] * 4 == [len(one) for one in held]
    assert len({agent for one in held for agent in one}) == 12
    assert (survey.waiting, survey.free) == (28, 0)


async def test_changing_to_pull_and_back_strands_nothing(any_redis_url: str) -> None:
    async with placed_pool(any_redis_url) as (pool, lead):
        fence = await pool.worker("w", slots=20)
        agents = await spawn(pool, 6)
        await place(pool.pool_log, lead, to(fence, agents[:1]))
        await set_placed(pool, "0")
        await requeue_unclaimed(pool.pool_log, PLACER)
        agents += await spawn(pool, 1)
        assert (await pool.log.survey(POOL)).waiting == 6
        fetched = await pool.claim(fence)
        assert {one.agent.agent_id for one in fetched} == {*agents}, "the placed one, too"
        await set_placed(pool, "1")
        agents += await spawn(pool, 2)
        assert await pool.claim(fence) == []
        await place(pool.pool_log, lead, to(fence, agents[-2:]))
        assert len(await pool.claim(fence)) == 2
        assert (await pool.log.survey(POOL)).waiting == 0


async def test_an_agent_that_was_placed_with_a_worker_that_dies_waits_again(
    any_redis_url: str,
) -> None:
    async with placed_pool(any_redis_url) as (pool, lead):
        fence = await pool.worker("w1")
        agents = await spawn(pool, 1)
        await place(pool.pool_log, lead, to(fence, agents))
        await pool.lose(agents, "w1")
        survey = await pool.log.survey(POOL)
        assert survey.waiting == 1
        second = await pool.worker("w2")
        assert await place(pool.pool_log, lead, to(second, agents, 2)) == ["placed"]
        assert len(await pool.claim(second)) == 1
    with redis.Redis.from_url(any_redis_url) as client:
        assert client.xlen(f"pool:{{{POOL}}}:commands") == 1


async def test_a_renewal_says_what_was_placed_in_case_the_message_was_lost(
    any_redis_url: str,
) -> None:
    async with placed_pool(any_redis_url) as (pool, lead):
        fence = await pool.worker("w1")
        agents = await spawn(pool, 2)
        assert await backlog(pool, fence) == 0, "the placer's business"
        await place(pool.pool_log, lead, to(fence, agents[:1]))
        assert await backlog(pool, fence) == 1
        await pool.claim(fence)
        assert await backlog(pool, fence) == 0


async def backlog(pool: TestPool, fence: Fence) -> int:
    reply = await pool.log.run_script(
        "renew", POOL, 0, 0, fence.worker_id, fence.epoch, new_id(), "{}", 60_000, "", 10, "0:0"
    )
    return int(reply.rest[4])


async def test_isolated_agents_are_claimed_in_a_placed_pool_too(any_redis_url: str) -> None:
    async with placed_pool(any_redis_url) as (pool, lead):
        agents = await spawn(pool, 1)
        for number in (1, 2):
            fence = await pool.worker(f"w{number}")
            await place(pool.pool_log, lead, to(fence, agents, number))
            assert len(await pool.claim(fence)) == 1
            await pool.lose(agents, f"w{number}")
        assert (await pool.log.survey(POOL)).waiting_isolated == 1
        third = await pool.worker("w3")
        [claimed] = await pool.claim(third)
        assert (claimed.agent.agent_id, claimed.agent.alone) == (agents[0], True)


async def test_a_damaged_agent_is_parked_and_the_others_are_placed(any_redis_url: str) -> None:
    async with placed_pool(any_redis_url) as (pool, lead):
        fence = await pool.worker("w")
        agents = await spawn(pool, 3)
        await place(pool.pool_log, lead, to(fence, agents[:1]))  # all commands are read
        execute = pool.log.client.execute_command
        await execute("HSET", f"agent:{{{POOL}}}:{agents[1]}", "incarnation", "x")
        assert await place(pool.pool_log, lead, to(fence, agents[1:])) == ["agent", "placed"]
        assert (await pool.log.survey(POOL)).waiting == 0
        assert await execute("HKEYS", f"pool:{{{POOL}}}:parked") == [f"agent:{agents[1]}".encode()]
        assert await execute("XLEN", f"pool:{{{POOL}}}:commands") == 2


async def test_a_foreign_entry_is_dropped_by_the_placer_too(any_redis_url: str) -> None:
    async with placed_pool(any_redis_url) as (pool, lead):
        await pool.log.client.execute_command("XADD", f"pool:{{{POOL}}}:commands", "*", "a", "b")
        fence = await pool.worker("w")
        [agent] = await spawn(pool, 1)
        assert await place(pool.pool_log, lead, to(fence, [agent])) == ["placed"]
        survey = await pool.log.survey(POOL)
        assert survey.waiting == 0
        assert await pool.log.client.execute_command("XLEN", f"pool:{{{POOL}}}:commands") == 1


async def test_priority_and_expected_life_are_recorded_only_where_given(
    any_redis_url: str,
) -> None:
    async with open_pool(any_redis_url) as pool:
        plain: SubmitResult = await pool.spawn()
        given = await pool.spawn(priority=3, expected_seconds=90.5)
        first, second = raw_events(any_redis_url)
        stored = [await pool.log.agent(POOL, one.agent_id) for one in (plain, given)]
    assert {"priority", "expected_seconds"}.isdisjoint(data(first))
    assert (data(second)["priority"], data(second)["expected_seconds"]) == (3, 90.5)
    assert stored == [plain.agent, given.agent]
