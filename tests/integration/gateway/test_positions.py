"""What a read waits for, and the position that its answer has."""

import asyncio

import pytest
from msgspec.structs import replace

from tests.integration.gateway.stage import AGENTS, QUICK, GatewayStage
from tests.integration.projector.stage import POOL
from tests.waiting import timed

SOON = 1.0


@pytest.fixture
async def stage(stage: GatewayStage) -> GatewayStage:
    """A read that waits in vain waits for longer than `SOON`."""
    stage.backend.limits = replace(QUICK, catch_up_seconds=5.0)
    return stage


async def test_one_agent_is_answered_however_late_the_views_of_another_pool_are(stage):
    agent_id = await stage.pending()
    await stage.stage.settle()
    await stage.stage.pool("late")
    stage.backend.log.acknowledge("late", 1, 100)
    position = {"Muster-Position": "late:100"}
    for path in (f"{AGENTS}/{agent_id}", f"{AGENTS}?pool_name={POOL}", f"{AGENTS}/pools/{POOL}"):
        seconds, answer = await timed(stage.get(path, headers=position))
        assert (answer.status, "Muster-Stale" in answer.headers) == (200, False)
        assert seconds < SOON
        assert "late:100" in answer.headers["Muster-Position"].split(",")


async def test_an_agent_that_the_views_do_not_have_yet_is_waited_for(unprojected):
    agent_id = await unprojected.pending()
    unprojected.backend.limits = QUICK
    asking = asyncio.ensure_future(unprojected.get(f"{AGENTS}/{agent_id}"))
    await unprojected.projector.start()
    answer = await asking
    assert (answer.status, answer.json["status"]) == (200, "pending")
    assert "Muster-Stale" not in answer.headers


async def test_an_agent_is_ended_at_once_while_the_views_stand_still(stage):
    agent_ids = [await stage.pending(), await stage.pending()]
    await stage.projector.stop()
    agent_ids.append(await stage.pending())
    for agent_id in agent_ids:
        seconds, answer = await timed(stage.ask("DELETE", f"{AGENTS}/{agent_id}"))
        assert (answer.status, answer.json["status"]) == (200, "terminated")
        assert seconds < SOON


async def test_over_the_limit_of_waiters_nothing_is_waited_for(stage):
    fence = await stage.worker()
    await stage.pending()
    [running] = await stage.run(fence)
    await stage.projector.stop()
    stage.backend.waiters._limit = 0
    for asking, status in ((stage.spawn(), "pending"), (stage.terminate(running), "stopping")):
        seconds, answer = await timed(asking)
        assert (answer.status, answer.json["status"]) == (202, status)
        assert answer.headers["Preference-Applied"] == "respond-async"
        assert seconds < SOON


async def test_with_many_pools_the_position_is_short_and_has_those_used_last(stage):
    """Whatever is left out is what its client did not use for longest."""
    many = [f"pool_{number}_{'x' * 40}" for number in range(150)]
    position = ",".join(f"{name}:1" for name in many)
    agent_id = await stage.pending()
    answer = await stage.get(f"{AGENTS}/{agent_id}", headers={"Muster-Position": position})
    header = answer.headers["Muster-Position"]
    assert header.startswith(f"{POOL}:1,{many[0]}:1,{many[1]}:1,")
    assert 900 < len(header) <= 1_000


async def test_what_no_log_has_is_not_waited_for(stage):
    await stage.pending()
    for position in (f"{POOL}:1000", f"{POOL}:1,{POOL}:1000"):
        seconds, answer = await timed(stage.get(AGENTS, headers={"Muster-Position": position}))
        assert (answer.status, answer.headers["Muster-Stale"]) == (200, "true")
        assert seconds < SOON
    seconds, answer = await timed(stage.get(f"{AGENTS}?as_of={POOL}:1000"))
    assert (answer.status, answer.kind) == (422, "as-of-not-reached")
    assert seconds < SOON


async def test_a_position_in_a_log_that_was_removed_is_void(stage):
    """Clients repeat the position that they got last: else every list would be stale for them."""
    await stage.pending()
    stage.backend.log.raise_high_water_mark("removed", 1, 5)
    answer = await stage.get(AGENTS, headers={"Muster-Position": f"removed:5,{POOL}:1"})
    assert (answer.status, "Muster-Stale" in answer.headers) == (200, False)
    assert answer.headers["Muster-Position"].startswith(f"{POOL}:1,")
    assert "removed" not in answer.headers["Muster-Position"]
