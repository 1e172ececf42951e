"""Commands on agents that were acknowledged and lost: each is reported, or named later."""

from typing import Any

import pytest

from eventstore.errors import OutcomeUnknown
from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import Terminate
from eventstore.log.replies import LogHead, Reply
from eventstore.recovery.loss_reports import read_reports
from eventstore.steps.step import Step
from tests.integration.gateway.loss_reports import reported
from tests.integration.gateway.stage import AGENTS, GatewayStage
from tests.integration.projector.recovering import recovered, wipe
from tests.integration.projector.stage import POOL
from tests.pools import ORIGIN
from tests.waiting import until


async def test_what_was_acknowledged_and_not_archived_is_reported(
    hasty: GatewayStage, redis_url: str
) -> None:
    await hasty.pending()
    await hasty.stage.settle(POOL)
    await hasty.projector.stop()
    lost = [await hasty.pending() for _ in range(3)]
    wipe(redis_url)
    await reported(hasty, {("spawn", agent_id) for agent_id in lost})
    done = (await recovered(hasty.stage))[POOL]
    assert [one.agent_id for one in done.unsaved] == lost


async def test_a_command_acknowledged_while_the_head_is_read_is_not_reported_as_lost(
    hasty: GatewayStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head that is read is from before the command, and below it."""
    await hasty.stage.settle(POOL)
    await hasty.projector.stop()
    log = hasty.backend.log
    head, reads = log.head, 0

    async def late(pool: str) -> LogHead:
        nonlocal reads
        answer = await head(pool)
        if pool == POOL:
            reads += 1
            await hasty.pending()
        return answer

    await hasty.pending()
    monkeypatch.setattr(log, "head", late)
    assert (await log.require_intact(POOL)).seq < log.high_water_mark(POOL)[1]
    reads = 0
    await until(lambda: reads >= 2, timeout=10)
    monkeypatch.undo()
    assert not await read_reports(hasty.log, POOL)


async def test_what_could_not_be_reported_in_time_is_named_afterwards(
    hasty: GatewayStage, redis_url: str
) -> None:
    await hasty.stage.settle(POOL)
    await hasty.projector.stop()
    lost = await hasty.pending()
    wipe(redis_url)
    await recovered(hasty.stage)
    after = await hasty.pending()
    await until(lambda: hasty.backend.acknowledged_commands.lost, timeout=10)
    assert [one.agent_id for one in hasty.backend.acknowledged_commands.lost] == [lost]
    (alert,) = await hasty.alerts("commands-unsaved")
    assert lost in alert["message"]
    assert after not in alert["message"]


async def test_what_was_acknowledged_after_a_lost_reply_is_reported(
    hasty: GatewayStage, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, and when it was requested again: the client relies on that answer."""
    (running, stopping) = [await hasty.pending() for _ in range(2)]
    await hasty.run(await hasty.worker(), 2)
    await hasty.stage.settle(POOL)
    await hasty.stage.settle(CATALOGUE)
    await hasty.projector.stop()

    async def terminate(agent_id: str) -> int:
        return (await hasty.terminate(agent_id, prefer="respond-async")).status

    async def change() -> int:
        body = {"config": {"max_workers": 3}}
        return (await hasty.ask("PATCH", f"{AGENTS}/pools/{POOL}", json=body)).status

    _lose_a_reply(hasty, monkeypatch)
    spawned = await hasty.pending()
    _lose_a_reply(hasty, monkeypatch, 2)
    unknown = await hasty.spawn(prefer="respond-async", key="k")
    assert (unknown.status, unknown.kind) == (503, "outcome-unknown")
    asked_again = await hasty.spawn(prefer="respond-async", key="k")
    assert asked_again.status == 202
    again = asked_again.json["agent_id"]
    _lose_a_reply(hasty, monkeypatch)
    assert await terminate(running) == 202
    await hasty.log.act(POOL, stopping, Terminate(), ORIGIN)  # and the answer was lost
    assert await terminate(stopping) == 202
    _lose_a_reply(hasty, monkeypatch)
    assert await change() == 200
    # as if another gateway had written it
    hasty.backend.acknowledged_commands._commands.pop(CATALOGUE)
    assert await change() == 200
    wipe(redis_url)
    wanted = {
        ("spawn", spawned), ("spawn", again), ("terminate", running), ("terminate", stopping)
    }  # fmt: skip
    await reported(hasty, wanted)
    await reported(hasty, {("change_pool", POOL)}, CATALOGUE)
    assert len(await read_reports(hasty.log, CATALOGUE)) == 1
    done = await recovered(hasty.stage)
    named = [(one.kind, one.agent_id) for one in done[POOL].unsaved]
    assert sorted(one for one in named if one[0] != "holds") == sorted(wanted)


def _lose_a_reply(stage: GatewayStage, monkeypatch: pytest.MonkeyPatch, count: int = 1) -> None:
    """The next steps of the gateway are written, but it receives no reply."""
    commit, left = stage.backend.log.commit, iter(range(count))

    async def lose(step: Step, **options: Any) -> Reply:
        reply = await commit(step, **options)
        if next(left, None) is not None:
            raise OutcomeUnknown("the reply was lost")
        return reply

    monkeypatch.setattr(stage.backend.log, "commit", lose)


async def test_a_repeated_spawn_that_is_archived_is_not_named(
    hasty: GatewayStage, redis_url: str
) -> None:
    """However long the log was when it was repeated: its client would spawn another."""
    archived = await hasty.spawn(prefer="respond-async", key="k")
    await hasty.stage.settle(POOL)
    await hasty.projector.stop()
    lost = await hasty.pending()
    again = await hasty.spawn(prefer="respond-async", key="k")
    assert again.json["agent_id"] == archived.json["agent_id"]
    wipe(redis_url)
    await reported(hasty, {("spawn", lost)})
    done = (await recovered(hasty.stage))[POOL]
    assert [one.agent_id for one in done.unsaved] == [lost]
