"""A log that Redis lost is recovered from the archive, and its agents run again."""

import asyncio

import pytest
import redis

from eventstore.connection.clients import Client
from eventstore.errors import LogMissing, Recovered
from eventstore.keys import CATALOGUE, Keys
from eventstore.language.agent_commands import Terminate
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.log.restarting import Operation, RestartResult, request_restart
from eventstore.retention import Retention
from tests.chaos.judge import judge
from tests.integration.projector.recovering import recovered, require_equal, wipe
from tests.integration.projector.stage import EVENTS, META, POOL, QUICK, archived_story, open_stage
from tests.pools import ORIGIN, TestPool, raw_events, types
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("no_leases")


async def test_an_emptied_redis_is_recovered_from_the_archive(
    redis_url: str, database_url: str
) -> None:
    async with archived_story(redis_url, database_url) as (stage, pool):
        live = set(await stage.log.live(POOL))
        before = raw_events(redis_url)
        wipe(redis_url)
        with pytest.raises(LogMissing):
            await pool.spawn()
        done = await recovered(stage)
        assert set(done) == {CATALOGUE, POOL}
        assert (done[POOL].generation, done[POOL].seq) == (2, len(before))
        assert (done[POOL].agents, done[POOL].unsaved) == (len(live), ())
        events = raw_events(redis_url)
        assert events[: len(before)] == before, "what was archived is back unchanged"
        assert events[len(before)]["type"] == "log.recovered"
        assert [int(event["seq"]) for event in events] == list(range(1, len(events) + 1))
        assert set(await stage.log.live(POOL)) == live
        with pytest.raises(Recovered):
            await stage.log.survey(POOL)
        assert (await pool.spawn()).outcome is Outcome.DONE
        await require_equal(stage)


async def test_a_log_ahead_of_the_clock_continues_after_what_it_lost(
    redis_url: str, views_url: str
) -> None:
    """Readers of what was lost continue after its ids, and would miss what is written below."""
    async with archived_story(redis_url, views_url) as (stage, pool):
        with redis.Redis.from_url(redis_url) as client:
            ahead = int(client.time()[0] * 1000) + 86_400_000
            client.hset(META, "ts", ahead)
            await pool.spawn()
            await stage.catch_up()
            await pool.spawn()
            [(lost, _)] = client.xrevrange(EVENTS, count=1)
            client.flushall()
            await recovered(stage)
            [(first, fields)] = client.xrange(EVENTS, min=b"(" + lost, count=1)
            assert fields[b"type"] == b"log.recovered"
            assert int(first.split(b"-")[0]) - ahead < 120_000, "nor much later than that"


async def test_a_trimmed_log_is_recovered_completely_and_trimmed_again(
    redis_url: str, views_url: str
) -> None:
    """Most of it was only in the archive when Redis was lost; and it is again afterwards."""
    one = {"retention": Retention(events=1, age_ms=10**14), "trim_seconds": 0.05}
    async with archived_story(redis_url, views_url) as (stage, _):
        before = raw_events(redis_url)
        live = set(await stage.log.live(POOL))
        async with stage.projecting(**one):
            await until(lambda: len(raw_events(redis_url)) == 1)
        wipe(redis_url)
        done = await recovered(stage)
        assert (done[POOL].seq, done[POOL].unsaved) == (len(before), ())
        assert set(await stage.log.live(POOL)) == live
        assert raw_events(redis_url)[: len(before)] == before
        await require_equal(stage)
        async with stage.projecting(**one):
            await until(lambda: len(raw_events(redis_url)) == 1)
            rows = await stage.views.archived(POOL, "0")
            assert [row.seq for row in rows] == list(range(1, rows[-1].seq + 1))
            assert {row.generation for row in rows} == {1, 2}
        await require_equal(stage)


async def test_agents_that_ran_run_again_as_the_next_incarnation(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool(**QUICK)
        fence = await pool.worker("w")
        runs, ends = await stage.started(pool, fence, 2)
        await stage.act(pool, ends, Terminate())
        waits = (await pool.spawn()).agent_id
        await stage.catch_up()
        wipe(redis_url)
        done = (await recovered(stage))[POOL]
        assert (done.workers, done.agents, done.restarted) == (1, 3, 2)
        stage.log.raise_high_water_mark(POOL, 2, 0)
        again = await stage.log.agent(POOL, runs)
        assert again is not None
        assert (again.status.value, again.incarnation) == ("pending", 2)
        assert again.losses == (), "no agent is suspected for what happened to all"
        ended = await stage.log.agent(POOL, ends)
        assert ended is not None
        assert ended.status.value == "terminated"
        second = await pool.worker("v")
        claims = await pool.claim(second)
        assert {claimed.agent.agent_id for claimed in claims} == {runs, waits}
        assert all(b"core" in claimed.spec for claimed in claims if claimed.agent.agent_id == runs)
        assert int(raw_events(redis_url)[-1]["epoch"]) > fence.epoch + 1000
        await require_equal(stage)


async def test_agents_of_a_worker_that_was_being_cleared_are_lost_under_its_fence(
    redis_url: str, views_url: str
) -> None:
    """Its reaper had only fenced it; an event names the fence that it follows."""
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool(**QUICK)
        [running] = await stage.started(pool, await pool.worker("w"), 1)
        fence = await pool.fence("w")
        await stage.catch_up()
        wipe(redis_url)
        await recovered(stage)
        [lost] = [e for e in raw_events(redis_url) if e["type"] == "agent.lost"]
        assert (lost["subject"], lost["epoch"]) == (running, str(fence.epoch))
        assert judge(redis_url, views=stage.database_url) == []
        await require_equal(stage)


async def test_a_worker_from_before_the_loss_is_refused_for_good(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        await stage.pool(**QUICK)
        client = Client(redis_url)
        theirs = TestPool(Log(client, Keys(), survives_recovery=False), POOL)
        fence = await theirs.worker("w")
        (agent_id,) = await stage.started(theirs, fence, 1)
        await stage.catch_up()
        wipe(redis_url)
        await recovered(stage)
        for _ in range(2):
            with pytest.raises(Recovered):
                await theirs.claim(fence)
            with pytest.raises(Recovered):
                await theirs.log.act(POOL, agent_id, Terminate(), ORIGIN, fence=fence)
        await client.aclose()
        ours = await Log(stage.log.client, Keys()).claim(POOL, fence, 1)
        assert ours[0] is Outcome.FENCED


async def test_a_client_that_repeats_its_request_is_answered_as_before(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool(**QUICK)
        first = await pool.spawn(key="key:k", digest="d")
        await pool.claim(await pool.worker("w"))

        async def restart() -> RestartResult:
            return await request_restart(
                stage.log, pool.pool, first.agent_id, "asked", ORIGIN,
                from_views=unexpected, operation=Operation("key:r", "e"),
            )  # fmt: skip

        assert (await restart()).outcome is Outcome.DONE
        await stage.catch_up()
        wipe(redis_url)
        await recovered(stage)
        again = await pool.spawn(key="key:k", digest="d")
        assert (again.outcome, again.agent_id) == (Outcome.KNOWN, first.agent_id)
        restarted = await restart()
        assert (restarted.outcome, restarted.same) == (Outcome.KNOWN, True)
        assert types(redis_url).count("agent.restart_requested") == 1
        with redis.Redis.from_url(redis_url) as client:
            for key in ("k", "r"):
                left = client.pttl(f"pool:{{{POOL}}}:operation:key:{key}")
                assert 86_000_000 < left <= 86_400_000


async def unexpected() -> None:
    raise AssertionError("Redis has its state")


async def test_intact_logs_are_not_touched(redis_url: str, views_url: str) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        before = raw_events(redis_url)
        assert await recovered(stage) == {}
        assert raw_events(redis_url) == before
        assert (await pool.spawn()).outcome is Outcome.DONE


async def test_one_pool_is_recovered_while_others_go_on(redis_url: str, views_url: str) -> None:
    async with archived_story(redis_url, views_url) as (stage, _pool):
        other = await stage.pool("other", **QUICK)
        await other.spawn()
        await stage.catch_up()
        with redis.Redis.from_url(redis_url) as client:
            client.delete(EVENTS)
        recovering = asyncio.create_task(recovered(stage))
        while not recovering.done():
            assert (await other.spawn()).outcome is Outcome.DONE
            await asyncio.sleep(0.05)
        assert set(await recovering) == {POOL}
        await require_equal(stage)
        assert types(redis_url, "other").count("log.recovered") == 0
