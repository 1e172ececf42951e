"""An agent that cannot be read is parked, blocks no other, and is put back or ended."""

import asyncio

import pytest
from msgspec.structs import replace

from eventstore.language.agent_commands import Started
from eventstore.log import parked as parking
from tests.integration.gateway.parked_agents import assert_consistent, damage, decide, parked
from tests.integration.gateway.stage import AGENTS, GatewayStage
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN

DAMAGES = ("field", "status", "gone", "type")


async def test_a_damaged_agent_is_parked_and_rebuilt_from_its_events(stage, plain_redis, subtests):
    fence = await stage.worker()
    for how in DAMAGES:
        with subtests.test(how):
            damaged = await stage.pending(
                labels={"team": "core"}, input={"task": 1}, pending_timeout=600
            )
            sound = await stage.pending()
            damage(plain_redis, damaged, how)
            assert [one.agent.agent_id for one in await stage.claim(fence, 10)] == [sound]
            [one] = await parked(stage)
            assert (one["source"], one["subject"]) == ("agent", damaged)
            expected = {"field": "x", "status": "1"}.get(how)
            assert one["content"].get("incarnation") == expected, "what is in its hash now"
            assert (await decide(stage, "POST", one)).status == 200
            [claimed] = await stage.claim(fence, 10)
            assert claimed.agent.agent_id == damaged
            assert b'"task":1' in claimed.spec
            await stage.act(damaged, Started(now_ms=stage.log.now_ms(POOL)), fence)
            await stage.act(sound, Started(now_ms=stage.log.now_ms(POOL)), fence)
            assert await parked(stage) == []
            await assert_consistent(stage)


async def test_of_two_concurrent_decisions_one_is_written(stage, plain_redis):
    agent_id = await stage.pending()
    damage(plain_redis, agent_id, "field")
    assert await stage.pool.claim(await stage.worker()) == []
    [one] = await parking.read(stage.log, POOL)
    from_views = await stage.stage.views.agent_state(POOL, agent_id)
    decided = await asyncio.gather(
        parking.repair(stage.log, one, from_views, ORIGIN, drop=False),
        parking.repair(stage.log, one, from_views, ORIGIN, drop=True),
    )
    assert sorted(decided) == [False, True]


async def test_a_dropped_agent_ends_with_its_reason(stage, plain_redis, subtests):
    fence = await stage.worker()
    for how in ("field", "gone"):
        with subtests.test(how):
            agent_id = await stage.pending()
            damage(plain_redis, agent_id, how)
            assert await stage.pool.claim(fence) == []
            [one] = await parked(stage)
            assert (await decide(stage, "DELETE", one)).status == 200
            row = (await stage.get(f"{AGENTS}/{agent_id}")).json
            assert (row["status"], row["reason"]) == ("terminated", "dropped")
            assert await stage.log.live(POOL) == []
            await assert_consistent(stage)


async def test_a_running_agent_that_cannot_be_ended_is_parked_and_dropped(
    stage, plain_redis, subtests
):
    """Its code runs: it is asked to end at once, and only then has ended."""
    fence = await stage.worker()
    for how in DAMAGES:
        with subtests.test(how):
            agent_id = await stage.pending()
            await stage.run(fence)
            damage(plain_redis, agent_id, how)
            answer = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
            assert (answer.status, answer.kind) == (409, "cannot-be-read")
            [one] = await parked(stage)
            assert f"`muster parked retry {one['id']}`" in answer.json["detail"]
            assert f"agent {agent_id} is damaged" in answer.json["detail"]
            assert (await decide(stage, "DELETE", one)).status == 200
            state = await stage.log.agent(POOL, agent_id)
            assert (state.status, state.stop) == ("stopping", "now")
            await stage.end(agent_id, fence)
            await stage.stage.settle(POOL)
            row = (await stage.get(f"{AGENTS}/{agent_id}")).json
            assert (row["status"], row["reason"]) == ("terminated", "dropped")
            await assert_consistent(stage)


@pytest.mark.parametrize("stale", [False, True])
async def test_an_agent_whose_end_the_views_lack_is_not_reported_as_damaged(
    stage, plain_redis, stale
):
    """Redis forgets what has ended by itself, however late the views are."""
    agent_id = await stage.pending()
    fence = await stage.worker()
    await stage.run(fence)
    await _leave_behind(stage, stale)
    await stage.end(agent_id, fence)
    damage(plain_redis, agent_id, "gone")
    answer = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert (answer.status, answer.kind) == (404, "agent-not-found")
    assert await parked(stage) == []


async def test_a_damaged_agent_is_parked_also_while_the_views_are_behind(stage, plain_redis):
    agent_id = await stage.pending()
    await stage.stage.settle(POOL)
    await _leave_behind(stage, stale=True)
    damage(plain_redis, agent_id, "gone")
    answer = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
    assert (answer.status, answer.kind) == (409, "cannot-be-read")
    assert [one["subject"] for one in await parked(stage)] == [agent_id]


async def _leave_behind(stage: GatewayStage, stale: bool) -> None:
    """Stop the views. `stale`: below what this gateway has acknowledged."""
    await stage.projector.stop()
    stage.backend.limits = replace(stage.backend.limits, catch_up_seconds=0.2)  # waited in vain
    if stale:
        await stage.pending()


async def test_an_agent_with_an_unknown_status_is_parked_when_it_is_to_end(stage, plain_redis):
    """And can be terminated after it was put back."""
    agent_id = await stage.pending()
    damage(plain_redis, agent_id, "status")
    answer = await stage.terminate(agent_id)
    assert (answer.status, answer.kind) == (409, "cannot-be-read")
    assert "'hibernating'" in answer.json["detail"]
    [one] = await parked(stage)
    assert (await decide(stage, "POST", one)).status == 200
    answer = await stage.terminate(agent_id)
    assert (answer.status, answer.json["status"]) == (200, "terminated")
    await assert_consistent(stage)


async def test_a_pool_with_a_damaged_agent_says_why_it_is_not_deleted(stage, plain_redis):
    agent_id = await stage.pending()
    damage(plain_redis, agent_id, "field")
    answer = await stage.ask("DELETE", f"{AGENTS}/pools/{POOL}?force=true")
    assert (answer.status, answer.kind) == (409, "cannot-be-read")
    [one] = await parked(stage)
    assert one["id"] in answer.json["detail"]
