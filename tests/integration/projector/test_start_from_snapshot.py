"""Views start from Redis' hashes where the archive is empty and a stream lost its beginning."""

import asyncio

import pytest
import redis

from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import Started
from eventstore.language.agents import HELD
from projector.queries.views import AgentFilter
from projector.rebuild.rebuild import RebuildOptions, replay
from tests.integration.gateway.stage import AGENTS, gateway_stage, logged
from tests.integration.projector.recovering import recovered, wipe
from tests.integration.projector.stage import POOL, QUICK, open_stage
from tests.pools import raw_events
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("no_leases", "no_reports")


async def test_views_start_with_the_living_agents(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        live = await stage.play(pool)
        fence = await pool.worker("v")
        (late,) = await stage.started(pool, fence, 1)
        stage.trim(3)
        async with stage.projecting():
            await stage.settle()
            rows = {row.agent_id: row for row in await stage.views.agents(AgentFilter())}
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
            sums = [row for row in (await stage.contents())["usage_sums"] if row["account"] == 0]
            held = sum(row.status in HELD for row in rows.values())
            assert [(row["agents"], row["slots_used"], row["requested"]) for row in sums] == [
                (len(live) + 1, held, 0)
            ]


async def test_log_and_answers_name_where_the_archive_becomes_complete(
    redis_url: str, views_url: str
) -> None:
    """Answers about a time before that are refused, and about all agents also after it."""
    async with gateway_stage(redis_url, views_url, projecting=False) as shown:
        stage = shown.stage
        ids = [(await shown.pool.spawn()).agent_id for _ in range(4)]
        stage.trim(2)
        first = raw_events(redis_url)[0]
        async with logged() as lines:
            await shown.projector.start()
            await stage.settle()
            warnings = await until(
                lambda: [x for x in lines if x["event"] == "projection.started_from_snapshot"]
            )
        assert [(line["log_level"], line["pool"], line["complete_from"]) for line in warnings] == [
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


async def test_views_that_started_from_a_snapshot_continue(redis_url: str, views_url: str) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool()
        first = (await pool.spawn()).agent_id
        await pool.spawn()
        stage.trim(1)
        async with stage.projecting():
            await stage.settle()
            fence = await pool.worker("w")
            await pool.claim(fence)
            await stage.act(pool, first, Started(now_ms=stage.log.now_ms(pool.name)), fence=fence)
            await stage.settle()
            row = await stage.views.agent(first)
            assert row is not None
            assert row.status == "running"
        async with stage.projecting():
            await pool.spawn()
            await stage.settle()
        assert await stage.all_ok()


async def test_events_that_come_while_hashes_are_read_are_counted_once(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool()
        fences = [await pool.worker(f"w{n}", slots=100) for n in range(3)]
        for _ in range(60):
            await pool.spawn()
        stage.trim(5)

        async def work() -> None:
            for fence in fences:
                for claimed in await pool.claim(fence, 20):
                    await stage.act(
                        pool,
                        claimed.agent.agent_id,
                        Started(now_ms=stage.log.now_ms(pool.name)),
                        fence=fence,
                    )

        working = asyncio.create_task(work())
        async with stage.projecting():
            await working
            await stage.settle()
            (shown,) = await stage.views.pools()
            assert (shown.used_capacity, shown.agent_count) == (60, 60)
            rows = await stage.views.agents(AgentFilter(), limit=1000)
            assert [row.status for row in rows] == ["running"] * 60


async def test_a_log_whose_archive_is_incomplete_can_be_recovered(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool(**QUICK)
        ids = [(await pool.spawn()).agent_id for _ in range(4)]
        stage.trim(1)
        await stage.catch_up()
        wipe(redis_url)
        done = await recovered(stage)
        assert set(done) == {CATALOGUE, POOL}
        assert set(await stage.log.live(POOL)) == set(ids)
        async with stage.projecting():
            await until(stage.all_ok)


async def test_a_rebuild_leaves_such_a_pool_as_it_is_and_rebuilds_the_others(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool, other = await stage.pool(), await stage.pool("other")
        await stage.play(pool)
        await other.spawn()
        stage.trim(2)
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
            assert await stage.all_ok()


async def test_pools_found_by_a_recovery_of_the_catalogue_start_from_snapshots_too(
    redis_url: str, views_url: str
) -> None:
    """The catalogue has more than one batch, and is recovered before all of it was read."""
    async with open_stage(redis_url, views_url) as stage:
        pools = [await stage.pool(name, **QUICK) for name in ("first", POOL)]
        for pool in pools:
            await pool.spawn()
            await pool.spawn()
        stage.trim(1)
        with redis.Redis.from_url(redis_url) as client:
            client.hset("{muster:catalogue}:meta", "halted", "by a test")
        async with stage.projecting(batch=1, audit_seconds=0.001, auto_recover=True):
            await until(lambda: client.xlen("muster:catalogue") == 3, what="the recovery")
            await stage.settle()
            assert await stage.all_ok()
            assert len(await stage.views.agents(AgentFilter())) == 4
