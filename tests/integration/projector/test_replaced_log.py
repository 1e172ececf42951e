"""A projector notices a log that was rolled back, halted, replaced or emptied."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from eventstore.log.reader import Entry
from eventstore.recovery.restore import halt_generation
from projector.intake.source import Source
from projector.queries.views import Position
from projector.service.active import Active
from tests.integration.projector.recovering import stopped_at, wipe
from tests.integration.projector.stage import EVENTS, META, POOL, open_stage
from tests.waiting import until


def roll_back(client: Any) -> None:
    client.xtrim(EVENTS, maxlen=0)
    client.hset(META, "seq", 1)


def raise_generation(client: Any) -> None:
    client.hset(META, "generation", 2)


def rewrite(client: Any) -> None:
    """As where Redis lost its tail and was written to again before a process noticed."""
    [(stream_id, fields)] = client.xrevrange(EVENTS, count=1)
    client.delete(EVENTS)
    client.xadd(EVENTS, {**fields, b"event_id": b"another"}, id=stream_id)


ROLLED_BACK = "rolled back: the log ends at seq 1, the views at 3"


@pytest.mark.parametrize(
    ("idle", "replace", "status"),
    [
        (True, roll_back, ROLLED_BACK),
        (False, roll_back, ROLLED_BACK),
        (True, raise_generation, "generation 2 replaced generation 1"),
        (False, rewrite, "rewritten: another event at seq 3"),
    ],
)
async def test_a_replaced_log_is_noticed(
    redis_url: str,
    views_url: str,
    idle: bool,
    replace: Callable[[Any], None],
    status: str,
) -> None:
    """By an idle projector soon, and by one that starts at once."""
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool()
        for _ in range(3):
            await pool.spawn()
        with redis.Redis.from_url(redis_url) as client:
            async with stage.projecting():
                await stage.settle()
                if idle:
                    replace(client)
                    assert (await stopped_at(stage)).status == status
            if not idle:
                replace(client)
                async with stage.projecting():
                    assert (await stopped_at(stage)).status == status


async def test_entries_that_were_read_before_a_log_was_halted_are_not_applied(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of it and of another pool were read when the audit finds it halted."""
    wait, run_round = Source.wait, Active._round
    halted = applied = False

    async def halted_meanwhile(
        self: Source, positions: Mapping[str, Position], *, count: int
    ) -> dict[str, list[Entry]]:
        nonlocal halted
        entries = await wait(self, positions, count=count)
        if POOL in entries and positions[POOL].seq == 1:
            await other.spawn()
            entries |= await wait(self, {"other": positions["other"]}, count=count)
            halted = await halt_generation(stage.log, POOL, 1, "by hand")
        return entries

    async def audited(active: Active) -> None:
        nonlocal applied
        active._audited_at = -math.inf
        await run_round(active)
        applied = halted

    monkeypatch.setattr(Source, "wait", halted_meanwhile)
    monkeypatch.setattr(Active, "_round", audited)
    async with open_stage(redis_url, views_url) as stage:
        pool, other = await stage.pool(), await stage.pool("other")
        await pool.spawn()
        await other.spawn()
        with capture_logs() as logs:
            async with stage.projecting():
                await stage.settle()
                await pool.spawn()
                await until(lambda: applied)
                at = await stage.views.positions()
        assert (at[POOL].seq, at[POOL].status) == (1, "halted: by hand")
        assert (at["other"].seq, at["other"].status) == (2, "ok")
        assert "projection.resumed" not in [entry["event"] for entry in logs]


async def test_a_projector_with_no_log_to_follow_checks_rarely(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All logs are lost at once, and it polls until they are recovered."""
    rounds: list[float] = []
    run_round = Active._round

    async def counted(active: Active) -> None:
        rounds.append(time.monotonic())
        await run_round(active)

    monkeypatch.setattr(Active, "_round", counted)
    async with open_stage(redis_url, views_url) as stage:
        await (await stage.pool()).spawn()
        async with stage.projecting(audit_seconds=0.2):
            await stage.settle()
            wipe(redis_url)
            await stopped_at(stage)
            rounds.clear()
            await until(lambda: len(rounds) > 3)
    assert rounds[3] - rounds[0] > 0.5


async def test_a_stream_that_was_trimmed_up_to_the_views_is_followed(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool()
        await pool.spawn()
        await stage.catch_up()
        await pool.spawn()
        stage.trim(1)
        async with stage.projecting():
            await stage.settle()
            await pool.spawn()
            await stage.settle()
        assert len(await stage.views.events(POOL)) == 3
