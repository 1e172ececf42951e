"""A gateway whose log was recovered, to before what it had read of it."""

from typing import Any

import pytest

from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import Terminate
from eventstore.log.reader import Entry
from gateway.health.facts import view_facts
from tests.integration.gateway.stage import AGENTS, GatewayStage
from tests.integration.projector.recovering import recovered, wipe
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN
from tests.waiting import until


async def test_an_event_from_before_a_recovery_is_no_evidence_of_the_log_after_it(
    hasty: GatewayStage,
) -> None:
    """A waiting client is answered when its log may have been recovered from before that event."""
    log = hasty.backend.log
    log.raise_high_water_mark(POOL, 2, 3)
    hasty.backend.mark_observed(None, POOL, 9)
    assert log.high_water_mark(POOL) == (2, 3)
    assert log.acknowledged(POOL) < (2, 0)
    hasty.backend.mark_observed(None, POOL, 3)
    assert log.acknowledged(POOL) == (2, 3)


async def test_a_command_written_after_a_recovery_and_repeated_is_not_named_as_lost(
    hasty: GatewayStage,
    redis_url: str,
) -> None:
    """Through a gateway that does not know of the recovery yet."""
    agent_id = (await hasty.pool.spawn()).agent_id
    await hasty.stage.settle()
    await hasty.projector.stop()
    await hasty.backend.tail.stop()
    await hasty.backend.positions()
    wipe(redis_url)
    await recovered(hasty.stage)
    await hasty.log.act(POOL, agent_id, Terminate(), ORIGIN)
    assert hasty.backend.log.high_water_mark(POOL)[0] == 1
    again = await hasty.terminate(agent_id)
    assert (again.status, again.json["status"]) == (200, "terminated")
    if POOL in hasty.backend.acknowledged_commands._commands:
        await hasty.backend.acknowledged_commands._check(POOL)
    assert not hasty.backend.acknowledged_commands.lost


async def test_views_of_a_recovered_log_do_not_lag_behind_what_was_lost(
    hasty: GatewayStage, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway had read more than was archived, and the log continued below that."""
    monkeypatch.setattr("gateway.alerts.conditions.LAG_SECONDS", 0.0)
    await hasty.stage.settle(POOL)
    await hasty.projector.stop()
    for _ in range(5):
        await hasty.pending()
    for name in ("a", "b"):
        created = {"role_type": "developer", "pool_name": name}
        await hasty.ask("POST", f"{AGENTS}/pools", json=created)
    await hasty.pending(pool_name="a")
    heads = hasty.backend.tail.heads
    await until(lambda: heads[POOL].seq >= 5 and heads[CATALOGUE].seq >= 3, timeout=10)
    wipe(redis_url)
    done = await recovered(hasty.stage)
    async with hasty.stage.projecting():
        for pool in (POOL, CATALOGUE):
            after = done[pool].seq + 1
            await until(lambda: heads[pool].seq == after, timeout=10)  # noqa: B023

        async def caught_up() -> bool:
            facts = {fact.pool: fact for fact in await view_facts(hasty.backend)}
            return all(facts[pool].seq == heads[pool].seq for pool in (POOL, CATALOGUE))

        await until(caught_up, timeout=10)
        lags = {fact.pool: fact.lag_seconds for fact in await view_facts(hasty.backend)}
        assert (lags[POOL], lags[CATALOGUE]) == (0, 0)
        assert await hasty.alerts("projection-lag") == []


async def test_what_was_read_before_a_recovery_is_not_required_of_the_log_after_it(
    hasty: GatewayStage, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tail is still reading what it missed when the log is recovered and spawned into."""
    await hasty.pending()
    await hasty.stage.settle()
    await hasty.projector.stop()
    for _ in range(4):
        await hasty.pool.spawn()
    tail, log = hasty.backend.tail, hasty.backend.log
    await until(lambda: tail.heads[POOL].seq == 5, timeout=10)
    fill = tail._fill_gap
    read: list[tuple[tuple[int, int], int]] = []

    async def late(_: object, pool: str, following: Entry, *arguments: Any) -> None:
        if pool == POOL and not read:
            wipe(redis_url)
            await recovered(hasty.stage)
            await hasty.pending()
            read.append((log.high_water_mark(POOL), int(following[1][5])))
        await fill(pool, following, *arguments)

    monkeypatch.setattr(type(tail), "_fill_gap", late)
    await hasty.pool.spawn()
    await until(lambda: tail.heads[POOL].seq == 3, timeout=10)
    assert read == [((2, 3), 6)]
    assert log.high_water_mark(POOL) == (2, 3)
    await hasty.pending()
