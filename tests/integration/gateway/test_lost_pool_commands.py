"""Commands on pools that were acknowledged and lost: each is reported, or named later."""

from pathlib import Path

import msgspec
import pytest
import redis

from eventstore.keys import CATALOGUE
from eventstore.recovery.loss_reports import read_reports
from projector.recovery.recovery import Recovery
from tests.chaos.judging.commands import Command, named_lost, read_lost_commands
from tests.integration.gateway.loss_reports import reported
from tests.integration.gateway.stage import AGENTS, GatewayStage
from tests.integration.projector.recovering import recovered, wipe
from tests.integration.projector.stage import POOL
from tests.waiting import until

NAMED = [("create_pool", "created"), ("change_pool", POOL), ("delete_pool", "third")]


async def _change_pools(stage: GatewayStage) -> str:
    """Create one and spawn in it, change another, delete a third; the id of the agent."""
    pools = f"{AGENTS}/pools"
    created = {"role_type": "developer", "pool_name": "created"}
    assert (await stage.ask("POST", pools, json=created)).status == 201
    agent_id = await stage.pending(pool_name="created")
    change = {"config": {"max_workers": 3}}
    assert (await stage.ask("PATCH", f"{pools}/{POOL}", json=change)).status == 200
    assert (await stage.ask("DELETE", f"{pools}/third?force=true")).status == 200
    return agent_id


async def test_commands_on_pools_are_reported_and_named(
    hasty: GatewayStage, redis_url: str, tmp_path: Path
) -> None:
    await hasty.stage.pool("third")
    await hasty.stage.settle(CATALOGUE)
    await hasty.stage.settle(POOL)
    await hasty.projector.stop()
    agent_id = await _change_pools(hasty)
    wipe(redis_url)
    await reported(hasty, {("spawn", agent_id)}, "created")
    await reported(hasty, set(NAMED), CATALOGUE)
    done = await recovered(hasty.stage)
    unsaved = done[CATALOGUE].unsaved
    assert [(one.kind, one.agent_id) for one in unsaved if not one.pool] == NAMED
    (inside,) = [one for one in unsaved if one.pool]
    assert (inside.pool, inside.kind, inside.agent_id) == ("created", "spawn", agent_id)
    assert await read_reports(hasty.log, "created") == []
    report = tmp_path / "unsaved.json"
    report.write_bytes(msgspec.json.encode({"logs": list(done.values())}))
    commands = [Command(kind, pool=name) for kind, name in NAMED]
    commands.append(Command("spawn", pool="created", agent_id=agent_id))
    assert named_lost(commands, read_lost_commands(report)) == set(commands)


async def test_recovery_of_the_catalogue_only_waits_for_what_gateways_report(
    hasty: GatewayStage, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lease has to expire, so nothing else gives gateways the time."""

    async def until_reported(_: Recovery) -> None:
        await reported(hasty, set(NAMED), CATALOGUE)

    monkeypatch.setattr(Recovery, "_wait_for_reports", until_reported)
    await hasty.stage.pool("third")
    await hasty.stage.settle(CATALOGUE)
    await hasty.projector.stop()
    await _change_pools(hasty)
    with redis.Redis.from_url(redis_url) as client:
        client.delete("muster:catalogue", "{muster:catalogue}:meta")
    done = await recovered(hasty.stage)
    assert set(done) == {CATALOGUE}
    named = [(one.kind, one.agent_id) for one in done[CATALOGUE].unsaved if not one.pool]
    assert named == NAMED


async def test_pool_commands_that_could_not_be_reported_are_named_afterwards(
    hasty: GatewayStage,
    redis_url: str,
) -> None:
    await hasty.stage.pool("third")
    await hasty.stage.settle(CATALOGUE)
    await hasty.projector.stop()
    await _change_pools(hasty)
    wipe(redis_url)
    await recovered(hasty.stage)
    unsaved = hasty.backend.acknowledged_commands.lost
    await until(lambda: len(unsaved) == len(NAMED), timeout=10)
    assert [(one.kind, one.agent_id) for one in unsaved] == NAMED
    (alert,) = await hasty.alerts("commands-unsaved")
    assert "create_pool created" in alert["message"]
