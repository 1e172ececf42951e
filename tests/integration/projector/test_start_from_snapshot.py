"""A database that was lost while the streams no longer have their beginning."""

import asyncio
from typing import Any

import pytest
import redis

from eventstore.errors import MusterError, RolledBack
from eventstore.keys import CATALOGUE, Keys
from eventstore.language.agent_commands import End, Started
from eventstore.log import parked
from eventstore.log.log import Log
from projector.rebuild.rebuild import RebuildOptions, replay
from projector.recovery import recovery
from projector.service.active import Active
from tests.integration.gateway.stage import AGENTS, gateway_stage, logged
from tests.integration.projector.recovering import recovered
from tests.integration.projector.stage import POOL, QUICK, Stage, open_stage
from tests.integration.projector.test_damaged_log import META, stopped_at, write_entry
from tests.pools import raw_events
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("no_leases", "no_reports")
EVENTS = f"pool:{{{POOL}}}:events"


async def trim(stage: Stage, keep: int) -> None:
    with redis.Redis.from_url(stage.redis_url) as client:
        client.xtrim(EVENTS, maxlen=keep, approximate=False)


async def test_views_start_with_what_lives(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        live = await stage.play(pool)
        fence = await pool.worker("v")
        (late,) = await stage.started(pool, fence, 1)
        await trim(stage, 3)
        async with stage.projecting():
            await stage.settle()
            rows = {row.agent_id: row for row in await stage.views.agents(_any())}
            assert set(live) | {late} <= set(rows)
            for agent_id in (*live, late):
                state = await stage.log.agent(POOL, agent_id)
                assert state is not None
                row = rows[agent_id]
                assert (row.status, row.incarnation, row.process_id, row.version) == (
                    state.status.value,
                    state.incarnation,
                    state.worker_id,
                    state.version,
                )
                assert (row.labels, row.input) == ({"team": "core"}, {"task": "x"})
            (shown,) = await stage.views.pools()
            assert (shown.used_capacity, shown.agent_count) == (1, len(live) + 1)
            archived = await stage.views.events(POOL)
            assert [row.seq for row in archived] == [await stage.head(POOL) - n for n in (2, 1, 0)]


async def test_it_is_said_from_where_on_the_archive_is_complete(
    redis_url: str, database_url: str
) -> None:
    """In the log, and in answers about a time before it, or about all agents at a time after it."""
    async with gateway_stage(redis_url, database_url, projecting=False) as shown:
        stage = shown.stage
        ids = [(await shown.pool.spawn()).agent_id for _ in range(4)]
        await trim(stage, 2)
        first = raw_events(redis_url)[0]
        async with logged() as lines:
            await shown.projector.start()
            await stage.settle()
            said = await until(
                lambda: [x for x in lines if x["event"] == "projection.started_from_snapshot"]
            )
        assert [(line["log_level"], line["pool"], line["complete_from"]) for line in said] == [
            ("warning", POOL, 3)
        ]
        assert [row.seq for row in await stage.views.archived(POOL, "0")] == [3, 4]
        refused = f"pool '{POOL}': the archive is complete from seq 3 on ({first['ts']} ms)"
        for point in (f"{POOL}:1", f"{POOL}:2", int(first["ts"]) - 1, f"{POOL}:4"):
            for path in ("", f"/{ids[0]}", "/pools", "/workers"):
                answer = await shown.get(f"{AGENTS}{path}?as_of={point}")
                assert (answer.status, answer.kind) == (410, "archive-incomplete"), point
                assert answer.json["detail"] == refused
        await shown.pool.claim(await shown.worker())
        await stage.settle()
        for point, status in (
            (2, 410),
            (3, 410),
            (4, "pending"),
            (await stage.head(POOL), "starting"),
        ):
            answer = await shown.get(f"{AGENTS}/{ids[3]}?as_of={POOL}:{point}")
            assert answer.json["status"] == status, point


async def test_and_go_on_from_there(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        first = (await pool.spawn()).agent_id
        await pool.spawn()
        await trim(stage, 1)
        async with stage.projecting():
            await stage.settle()
            fence = await pool.worker("w")
            await pool.claim(fence)
            await stage.act(pool, first, Started(), fence=fence)
            await stage.settle()
            row = await stage.views.agent(first)
            assert row is not None
            assert row.status == "running"
        async with stage.projecting():
            await pool.spawn()
            await stage.settle()
        assert {at.status for at in (await stage.views.positions()).values()} == {"ok"}


async def test_events_that_come_while_hashes_are_read_are_counted_once(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        fences = [await pool.worker(f"w{n}", slots=100) for n in range(3)]
        for _ in range(60):
            await pool.spawn()
        await trim(stage, 5)

        async def work() -> None:
            for fence in fences:
                for claimed in await pool.claim(fence, 20):
                    await stage.act(pool, claimed.agent.agent_id, Started(), fence=fence)

        working = asyncio.create_task(work())
        async with stage.projecting():
            await working
            await stage.settle()
            (shown,) = await stage.views.pools()
            assert (shown.used_capacity, shown.agent_count) == (60, 60)
            rows = await stage.views.agents(_any(), limit=1000)
            assert [row.status for row in rows] == ["running"] * 60


async def test_a_log_whose_archive_is_incomplete_can_be_recovered(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool(lease_seconds=1.0, renew_seconds=0.3)
        ids = [(await pool.spawn()).agent_id for _ in range(4)]
        await trim(stage, 1)
        await stage.catch_up()
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        done = await recovered(stage)
        assert set(done) == {CATALOGUE, POOL}
        assert set(await stage.log.live(POOL)) == set(ids)
        async with stage.projecting():
            await until(lambda: _ok(stage))


async def test_a_replay_leaves_such_a_pool_as_it_is_and_rebuilds_the_others(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool, other = await stage.pool(), await stage.pool("other")
        await stage.play(pool)
        await other.spawn()
        await trim(stage, 2)
        async with stage.projecting():
            await stage.settle()
            before = await stage.contents()
            await stage.sql("UPDATE {}agents SET reason = 'x' WHERE pool_name = 'other'")
            rebuild = RebuildOptions(
                redis_url=redis_url, database_url=database_url, lease_seconds=1.0
            )
            done = await replay(rebuild, lambda _: None)
            assert "beginning" in done.comparison.left_out[POOL]
            assert done.comparison.differing == 1
            assert await stage.contents() == before
            await pool.spawn()
            await stage.settle()
            assert await _ok(stage)


async def test_a_halted_log_is_recovered_with_what_lives_where_nothing_is_archived(
    redis_url: str, database_url: str
) -> None:
    """An empty database with which no projector has started: Redis' hashes are all there is."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool(lease_seconds=1.0, renew_seconds=0.3)
        damaged = (await pool.spawn()).agent_id
        ids = [(await pool.spawn(labels={"team": "core"})).agent_id for _ in range(3)]
        await trim(stage, 1)
        stage.log.raise_high_water_mark(POOL, 1, 1000)
        with pytest.raises(RolledBack):
            await pool.spawn()
        with redis.Redis.from_url(redis_url) as client:
            client.hset(f"agent:{{{POOL}}}:{damaged}", "status", "dancing")
        done = await recovered(stage)
        assert [(one.kind, one.agent_id) for one in done[POOL].unsaved] == [("damaged", damaged)]
        log = Log(stage.log.client, Keys())
        assert set(await log.live(POOL)) == set(ids)
        async with stage.projecting():
            await until(lambda: _ok(stage))
            row = await stage.views.agent(ids[0])
            assert row is not None
            assert (row.status, row.labels) == ("pending", {"team": "core"})


async def test_pools_found_by_a_recovery_of_the_catalogue_start_late_too(
    redis_url: str, database_url: str
) -> None:
    """The catalogue takes more than one batch, and is recovered before all of it was read."""
    async with open_stage(redis_url, database_url) as stage:
        pools = [await stage.pool(name, **QUICK) for name in ("first", POOL)]
        for pool in pools:
            await pool.spawn()
            await pool.spawn()
        await trim(stage, 1)
        with redis.Redis.from_url(redis_url) as client:
            client.hset("{muster:catalogue}:meta", "halted", "by a test")
        async with stage.projecting(batch=1, audit_seconds=0.001, auto_recover=True):
            await until(lambda: client.xlen("muster:catalogue") == 3, what="the recovery")
            await stage.settle()
            assert await _ok(stage)
            assert len(await stage.views.agents(_any())) == 4


async def test_what_is_damaged_is_named_also_where_the_beginning_was_interrupted(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a projector, which parks it, and by a recovery, which is the last that sees it."""

    class Interrupted(MusterError):
        pass

    def interrupt(what: object, name: str, pool: str) -> None:
        original = getattr(what, name)

        async def once(*args: Any, **kwargs: Any) -> Any:
            if not any(pool in (one, getattr(one, "pool", "")) for one in args):
                return await original(*args, **kwargs)
            monkeypatch.setattr(what, name, original)
            raise Interrupted

        monkeypatch.setattr(what, name, once)

    async with open_stage(redis_url, database_url) as stage:
        pools = [await stage.pool(name, **QUICK) for name in (POOL, "other")]
        damaged = [(await pool.spawn()).agent_id for pool in pools]
        for one, agent_id in zip(pools, damaged, strict=True):
            await one.spawn()
            with redis.Redis.from_url(redis_url) as client:
                client.xtrim(f"pool:{{{one.name}}}:events", maxlen=1, approximate=False)
                client.hset(f"agent:{{{one.name}}}:{agent_id}", "status", "dancing")
        stage.log.raise_high_water_mark(POOL, 1, 1000)
        with pytest.raises(RolledBack):
            await pools[0].spawn()
        interrupt(recovery, "unarchived_events", POOL)
        with pytest.raises(Interrupted):
            await recovered(stage)
        done = await recovered(stage)
        assert [(one.kind, one.agent_id) for one in done[POOL].unsaved] == [("damaged", damaged[0])]
        interrupt(Active, "_park", "other")
        async with stage.projecting():
            await stage.settle()
            put_aside = [one.key for one in await parked.read(stage.log, "other")]
            assert put_aside == [f"agent:{damaged[1]}"]


async def test_what_is_damaged_in_redis_is_parked_and_holds_up_nothing(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool, other = await stage.pool(), await stage.pool("other")
        await other.spawn()
        fence = await pool.worker("w")
        sound, runs, no_hash, no_input = await stage.started(pool, fence, 4)
        state = await stage.log.agent(POOL, runs)
        await pool.order("odd")
        await trim(stage, 1)
        with redis.Redis.from_url(redis_url) as client:
            client.hset(f"agent:{{{POOL}}}:{runs}", "status", "dancing")
            client.delete(f"agent:{{{POOL}}}:{no_hash}")
            client.set(f"agent:{{{POOL}}}:{no_hash}", "x")
            client.set(f"pool:{{{POOL}}}:spec:{no_input}", "{")
            client.hset(f"process:{{{POOL}}}:odd", "status", b"\xff")
        async with stage.projecting():
            await stage.settle()
            rows = await stage.views.agents(_any())
            assert [row.agent_id for row in rows if row.pool_name == POOL] == [sound]
            put_aside = {one.key: one.reason for one in await parked.read(stage.log, POOL)}
            assert put_aside.keys() == {
                f"agent:{runs}",
                f"agent:{no_hash}",
                f"agent:{no_input}",
            }
            await stage.act(pool, runs, End(reason="completed"), fence=fence, agent=state)
            await pool.spawn()
            await stage.settle()
            assert await _ok(stage)
            assert await stage.views.agent(runs) is None
        async with stage.projecting():
            await stage.act(pool, sound, End(reason="completed"), fence=fence)
            await stage.settle()
            assert await _ok(stage)


async def _ok(stage: Stage) -> bool:
    return {at.status for at in (await stage.views.positions()).values()} == {"ok"}


def _any():
    from projector.queries.views import AgentFilter

    return AgentFilter()


@pytest.mark.parametrize("kind", ["agent.abducted", "agent.lost"])
async def test_an_event_that_cannot_be_read_stops_that_pool_alone(
    redis_url: str, database_url: str, kind: str
) -> None:
    """Until a projector comes that can read it: here the stream is repaired."""
    async with open_stage(redis_url, database_url) as stage:
        pool, other = await stage.pool(), await stage.pool("other")
        for one in (pool, pool, other):
            await one.spawn()
        await trim(stage, 1)
        write_entry(redis_url, 3, kind=kind)
        async with stage.projecting():
            await stage.settle("other")
            position = await stopped_at(stage)
            assert position.seq == 0
            assert position.status.startswith("unreadable event in a stream that has lost its")
        with redis.Redis.from_url(redis_url) as client:
            client.xdel(EVENTS, client.xrevrange(EVENTS, count=1)[0][0])
            client.hset(META, "seq", 2)
        async with stage.projecting():
            await stage.settle()
            assert len(await stage.views.agents(_any())) == 3
