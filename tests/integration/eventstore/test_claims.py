"""Claims and fences on real servers: no agent runs twice, none is left behind."""

import asyncio

import pytest
import redis

from eventstore.errors import LogError
from eventstore.keys import GROUP
from eventstore.language import agent_commands, agents, workers
from eventstore.language.agent_commands import End, MarkLost, Started, Terminate
from eventstore.language.events import decode_entry
from eventstore.log.replies import Outcome
from eventstore.steps import clauses
from eventstore.steps.hashes import AGENT
from eventstore.steps.step import Fence
from tests.pools import ORIGIN, TestPool, open_pool, raw_events, types

POOL = "developer_pool"


async def test_workers_that_claim_at_once_never_get_more_than_their_slots(
    any_redis_url: str,
) -> None:
    async with open_pool(any_redis_url) as pool:
        await asyncio.gather(*(pool.spawn() for _ in range(50)))
        fences = [await pool.worker(f"w{n}", slots=7) for n in range(6)]
        claims = await asyncio.gather(*(pool.claim(f, 10) for f in fences for _ in range(3)))
        survey = await pool.log.survey(POOL)
    claimed = [entry.agent.agent_id for claim in claims for entry in claim]
    assert len(claimed) == len(set(claimed)) == 42
    assert [observed.agent_count for observed in survey.workers] == [7] * 6
    assert (survey.waiting, survey.free) == (8, 0)


async def test_after_a_lost_reply_claimed_agents_are_returned_again(any_redis_url: str) -> None:
    """The worker claims with `include_held`, and gets the agents of the lost reply too."""
    async with open_pool(any_redis_url) as pool:
        await asyncio.gather(*(pool.spawn() for _ in range(3)))
        fence = await pool.worker("w")
        lost = await pool.claim(fence)
        assert await pool.claim(fence) == []
        repeated = await pool.claim(fence, again=True)
        assert {c.agent.agent_id for c in repeated} == {c.agent.agent_id for c in lost}
        survey = await pool.log.survey(POOL)
    assert survey.workers[0].agent_count == 3


async def test_a_cordoned_worker_claims_nothing_and_its_slots_are_no_room(
    any_redis_url: str,
) -> None:
    """Nor is it woken: what waits is for others, and for a new worker."""
    cordon, uncordon = workers.Cordon(reason="t"), workers.Uncordon(reason="t")
    async with open_pool(any_redis_url) as pool:
        fence = await pool.worker("w", slots=3)
        await pool.spawn()
        assert len(await pool.claim(fence)) == 1
        await pool.log.client.execute_command("DEL", f"pool:{{{POOL}}}:inbox:w")
        cordoned = await pool.log.act_on_worker(POOL, "w", cordon, ORIGIN)
        assert cordoned.outcome is Outcome.DONE
        again = await pool.log.act_on_worker(POOL, "w", cordon, ORIGIN)
        assert again.outcome is Outcome.ALREADY
        await pool.spawn()
        assert await pool.claim(fence) == []
        survey = await pool.log.survey(POOL)
        assert (survey.free, survey.room, survey.waiting) == (0, 0, 1)
        inbox = f"pool:{{{POOL}}}:inbox:w"
        assert await pool.log.client.execute_command("LRANGE", inbox, 0, -1) == []
        await pool.log.act_on_worker(POOL, "w", uncordon, ORIGIN)
        assert await pool.log.client.execute_command("LRANGE", inbox, 0, -1) == [b"work"]
        assert (await pool.log.survey(POOL)).room == 2
        assert len(await pool.claim(fence)) == 1


async def test_a_worker_that_is_fenced_draining_or_full_claims_nothing(
    any_redis_url: str,
) -> None:
    async with open_pool(any_redis_url) as pool:
        await asyncio.gather(*(pool.spawn() for _ in range(5)))
        full = await pool.worker("full", slots=1)
        assert len(await pool.claim(full)) == 1
        assert await pool.claim(full) == []
        draining = await pool.worker("draining")
        await pool.log.act_on_worker(POOL, "draining", workers.Drain(reason="t"), ORIGIN)
        assert await pool.claim(draining) == []
        fenced = await pool.worker("fenced")
        await pool.fence("fenced")
        assert await pool.log.claim(POOL, fenced, 5) == (Outcome.FENCED, [])
        wrong = Fence("full", full.epoch + 1)
        assert await pool.log.claim(POOL, wrong, 5) == (Outcome.FENCED, [])


@pytest.mark.parametrize("starts", ["", "developer"])
async def test_the_claim_and_the_fold_agree(any_redis_url: str, starts: str) -> None:
    """The claim script writes the same hash as `evolve` would."""
    async with open_pool(any_redis_url) as pool:
        submitted = await pool.spawn()
        fence = await pool.worker("w")
        [claimed] = await pool.claim(fence, starts=starts)
        found = await pool.log.agent(POOL, submitted.agent_id)
    folded = submitted.agent
    for entry_id, flat in stored_events(any_redis_url):
        event = decode_entry(entry_id, flat)
        if event.type in {"agent.claimed", "agent.started"} and folded is not None:
            assert event.causation_id == folded.last_event_id
            assert (event.worker_id, event.epoch) == ("w", fence.epoch)
            folded = agents.evolve(folded, event, POOL)
    assert found is not None
    assert folded is not None
    assert found.status == ("running" if starts else "starting")
    to_hash = AGENT.to_hash
    assert to_hash(found) == to_hash(folded) == to_hash(claimed.agent)


async def test_a_claim_starts_agents_of_one_role_and_returns_them_again(any_redis_url: str) -> None:
    """The queue is done with them, and they are returned after a lost reply until they end."""
    async with open_pool(any_redis_url) as pool:
        started = {(await pool.spawn()).agent_id for _ in range(3)}
        other = (await pool.spawn(role_type="tester")).agent_id
        fence = await pool.worker("w")
        claimed = {c.agent.agent_id: c.agent for c in await pool.claim(fence, starts="developer")}
        assert {i for i, agent in claimed.items() if agent.status == "running"} == started
        assert claimed[other].status == "starting"
        assert await pending(pool) == 1
        ended, stopped, _ = started
        for agent_id, command in (
            (ended, End(reason="completed")),
            (stopped, Terminate(reason="t")),
        ):
            await pool.log.act(POOL, agent_id, command, ORIGIN, fence=fence)
        again = {c.agent.agent_id: c.agent for c in await pool.claim(fence, 0, again=True)}
    assert again.keys() == claimed.keys() - {ended}
    assert again[stopped].stop
    entries = raw_events(any_redis_url)
    ids = [entry["event_id"] for entry in entries]
    assert len(ids) == len(set(ids))


def stored_events(url: str) -> list[tuple[bytes, list[bytes]]]:
    """Entry ids, and names and values in turn."""
    with redis.Redis.from_url(url) as client:
        found = client.xrange(f"pool:{{{POOL}}}:events")
    return [
        (entry_id, [part for pair in fields.items() for part in pair]) for entry_id, fields in found
    ]


async def pending(pool: TestPool) -> int:
    found = await pool.log.client.execute_command(
        "XPENDING", pool.log.keys.pool(POOL, "commands"), GROUP
    )
    return int(found[0])


async def test_a_fenced_worker_writes_nothing_to_the_log(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        fence = await pool.worker("w")
        [claimed] = await pool.claim(fence)
        await pool.fence("w")
        before = raw_events(any_redis_url)
        for command in (
            Started(now_ms=1),
            End(reason="completed"),
            agent_commands.Release(reason="x"),
        ):
            acted = await pool.log.act(
                POOL, claimed.agent.agent_id, command, ORIGIN, fence=fence, incarnation=1
            )
            assert acted.outcome is Outcome.FENCED
        assert raw_events(any_redis_url) == before


async def test_a_lost_workers_agents_are_queued_once_more_and_only_once(
    any_redis_url: str,
) -> None:
    async with open_pool(any_redis_url) as pool:
        submitted = await pool.spawn()
        first = await pool.worker("w1")
        await pool.claim(first)
        reaper = await pool.fence("w1")
        lose = MarkLost(worker_id="w1", reason="killed", now_ms=1)
        for _ in range(2):  # the second finds nothing to do
            await pool.log.act(POOL, submitted.agent_id, lose, ORIGIN, fence=reaper)
        second = await pool.worker("w2")
        [claimed] = await pool.claim(second)
        assert (claimed.agent.agent_id, claimed.agent.incarnation) == (submitted.agent_id, 2)
        assert await pool.claim(second) == []
    assert types(any_redis_url).count("agent.lost") == 1


async def test_a_slow_reaper_releases_no_agent_of_the_next_worker(any_redis_url: str) -> None:
    """Two supervisors reap the same lost worker; the second does so after a new claim."""
    async with open_pool(any_redis_url) as pool:
        submitted = await pool.spawn()
        await pool.claim(await pool.worker("w1"))
        reaper = await pool.fence("w1")
        lose = MarkLost(worker_id="w1", reason="killed", now_ms=1)
        await pool.log.act(POOL, submitted.agent_id, lose, ORIGIN, fence=reaper)
        second = await pool.worker("w2")
        await pool.claim(second)
        late = await pool.log.act(POOL, submitted.agent_id, lose, ORIGIN, fence=reaper)
        assert late.outcome is Outcome.ALREADY
        agent = await pool.log.agent(POOL, submitted.agent_id)
    assert agent is not None
    assert (agent.worker_id, agent.incarnation) == ("w2", 2)


async def test_a_worker_stops_only_when_it_has_no_agents(any_redis_url: str) -> None:
    async with open_pool(any_redis_url) as pool:
        await pool.spawn()
        fence = await pool.worker("w")
        [claimed] = await pool.claim(fence)
        agent_id = claimed.agent.agent_id
        stop = workers.StopWorker(reason="t")
        refused = await pool.log.act_on_worker(
            POOL, "w", stop, ORIGIN, checks=[clauses.LeaseNotRenewed("w", 0)]
        )
        assert refused.outcome is Outcome.CONFLICT
        await pool.log.act(POOL, agent_id, Started(now_ms=1), ORIGIN, fence=fence)
        await pool.log.act(POOL, agent_id, End(reason="completed"), ORIGIN, fence=fence)
        await pool.log.act_on_worker(POOL, "w", workers.Drain(reason="t"), ORIGIN)
        stopped = await pool.log.act_on_worker(POOL, "w", stop, ORIGIN)
        assert stopped.outcome is Outcome.DONE
        assert (await pool.log.survey(POOL)).workers == ()
    numbers = [int(event["seq"]) for event in raw_events(any_redis_url)]
    assert numbers == list(range(1, len(numbers) + 1))
    with redis.Redis.from_url(any_redis_url, decode_responses=True) as client:
        assert client.xinfo_consumers(f"pool:{{{POOL}}}:commands", "workers") == []
        assert client.xpending(f"pool:{{{POOL}}}:commands", "workers")["pending"] == 0


async def test_a_claim_that_fails_midway_leaves_no_gap_in_the_log(any_redis_url: str) -> None:
    """Its events are recorded, so the next ones must follow them."""
    async with open_pool(any_redis_url) as pool:
        await asyncio.gather(*(pool.spawn() for _ in range(2)))
        fence = await pool.worker("w")
        with redis.Redis.from_url(any_redis_url) as client:
            client.set(f"pool:{{{POOL}}}:held:w", "not a set")
        with pytest.raises(LogError, match="SADD on pool"):
            await pool.claim(fence)
        await pool.spawn()
        seqs = [int(event["seq"]) for event in raw_events(any_redis_url)]
        head = await pool.log.head(POOL)
    assert seqs == list(range(1, 8))
    assert head.seq == 7
