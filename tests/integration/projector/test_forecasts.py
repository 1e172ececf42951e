"""The load of a pool as the archive has it, and the forecasts that are published from that."""

import random
import time
from collections.abc import Sequence

import msgspec
import pytest
from sqlalchemy import Connection

from eventstore.language.forecast import STEP_MS, Forecast, LoadHistory
from eventstore.log import forecasts
from projector.intake import load as pool_load
from projector.intake.load import PoolLoad
from projector.intake.source import Source
from projector.service.forecasts import Forecasts
from projector.store.rows import EventRow
from projector.store.tables import SERVING
from tests.integration.projector.archive_stage import ArchiveStage, open_archive
from tests.integration.projector.stage import POOL, open_stage
from tests.waiting import until

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CHANGES = {"agent.requested": 1, "agent.claimed": 0}
"""Of the load; of an end: -1."""


def event(seq: int, ts: int, kind: str, *, pool: str = POOL, generation: int = 1) -> EventRow:
    texts = dict.fromkeys(("worker_id", "correlation_id", "causation_id", "traceparent"), "")
    return EventRow(
        pool=pool, generation=generation, seq=seq, stream_id=f"{ts}-{seq}", type=f"agent.{kind}",
        version=1, event_id=f"{pool}.{generation}.{seq}", subject="a", incarnation=1, epoch=0,
        actor="test", ts=ts, data="{}", **texts,
    )  # fmt: skip


async def archive(stage: ArchiveStage, rows: Sequence[EventRow], live: int) -> None:
    """Events of a pool, and views in which so many of its agents live."""
    await stage.archive(rows)
    await stage.database.write(lambda connection: _have_live(connection, live))


def _have_live(connection: Connection, count: int) -> None:
    names = [(f"a{n}", POOL, "running" if n % 2 else "pending") for n in range(count)]
    names += [("x", POOL, "terminated"), ("y", POOL, "failed"), ("z", "other", "running")]
    table = SERVING.agents
    blank = {c.name: c.type.python_type() for c in table.columns if not c.nullable}
    rows = [
        {**blank, "agent_id": name, "pool_name": pool, "status": status}
        for name, pool, status in names
    ]
    connection.execute(table.delete())
    connection.execute(table.insert(), rows)


async def read(stage: ArchiveStage, load: PoolLoad, now_ms: int) -> None:
    while not await stage.database.read(lambda c: load.read_page(c, now_ms)):
        pass


async def test_the_load_of_each_step_is_what_began_and_ended(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pages, and what is archived later in another read; agents from before are counted."""
    monkeypatch.setattr(pool_load, "PAGE", 7)
    chance, ts, load = random.Random(5), DAY_MS, 40
    rows, expected = [], LoadHistory()
    for seq in range(1, 200):
        ts += chance.choice((0, 1_000, 90_000, 400_000))
        kind = chance.choice(("requested", "requested", "terminated", "failed", "claimed"))
        load += CHANGES.get(f"agent.{kind}", -1)
        expected.observe(ts, load)
        rows.append(event(seq, ts, kind))
    async with open_archive(database_url) as stage:
        found = PoolLoad(POOL)
        half = sum(CHANGES.get(row.type, -1) for row in rows[:99])
        await archive(stage, rows[:99], 40 + half)
        await read(stage, found, rows[98].ts)
        await archive(stage, [*rows[99:], event(1, ts, "requested", pool="other")], load)
        await read(stage, found, ts)
        await read(stage, found, ts)
    assert found.history._peaks == expected._peaks


async def test_lost_events_do_not_count_nor_what_is_older_than_of_use(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of a generation that a later one has replaced; and a load from before the archive."""
    now = 100 * DAY_MS
    old = [event(seq, now - 60 * DAY_MS, "requested") for seq in range(1, 50)]
    lost = [event(seq, now - HOUR_MS, "requested") for seq in range(50, 60)]
    valid = [event(50, now - HOUR_MS, "requested", generation=2)]
    valid += [event(51, now, "terminated", generation=2)]
    async with open_archive(database_url) as stage:
        await archive(stage, [*old, *lost, *valid], 49)
        found = PoolLoad(POOL)
        await read(stage, found, now)
    assert found.history._peaks == [50] * 13


async def test_only_pools_that_ask_for_a_forecast_get_one(
    redis_url: str, database_url: str
) -> None:
    """Each day at this time twenty agents come: within minutes twenty more are expected."""
    now = int(time.time() * 1000)
    soon = now - now % STEP_MS + STEP_MS
    rows: list[EventRow] = []
    for pool in (POOL, "quiet"):
        for day in range(16, 0, -1):
            at = soon - day * DAY_MS
            for kind, ts in (("requested", at), ("terminated", at + HOUR_MS)):
                rows += [event(len(rows) + n, ts, kind, pool=pool) for n in range(1, 21)]
    async with open_stage(redis_url, database_url) as stage, open_archive(database_url) as archived:
        await stage.pool(preset="proactive")
        await stage.pool("quiet", preset="proactive", forecast="off")
        await archive(archived, rows, 0)
        source = Source(redis_url, "")
        await Forecasts(source, archived.database).publish(stage.catalogue.state.pools.values())
        await source.close()
        ask = stage.log.client.execute_command
        text = await ask("GET", f"pool:{{{POOL}}}:forecast")
        published = forecasts.decode(text)
        assert published is not None
        assert (published.skill > 0.9, set(published.growth[:11])) == (True, {20})
        assert await ask("PTTL", f"pool:{{{POOL}}}:forecast") <= 24 * STEP_MS
        assert await ask("EXISTS", "pool:{quiet}:forecast") == 0
        [[_, signal]] = await ask("XRANGE", f"pool:{{{POOL}}}:signals", "-", "+")
        assert signal[1] == b"forecast"
        await stage.log.initialise(POOL)
        assert (await stage.log.survey(POOL)).forecast == published


async def test_an_active_projector_publishes_again_and_again(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Forecast(STEP_MS, 0.7, (3,))
    monkeypatch.setattr(LoadHistory, "forecast", lambda _: made)
    async with open_stage(redis_url, views_url) as stage:
        await stage.pool(forecast="only")

        async def published() -> bool:
            text = await stage.log.client.execute_command("GET", f"pool:{{{POOL}}}:forecast")
            return text == msgspec.json.encode(made)

        async with stage.projecting(forecast_seconds=0.1):
            await until(published)
            await stage.log.client.execute_command("SET", f"pool:{{{POOL}}}:forecast", "x")
            assert forecasts.decode(b"x") is None
            await until(published)
