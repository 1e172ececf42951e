"""What the views answer: pools, agents, workers and hosts as the log has them."""

import time

from eventstore.language import agent_commands
from eventstore.language.agent_commands import Terminate
from eventstore.language.pool_config import PoolConfig
from projector.queries.views import AgentFilter
from tests.integration.projector.stage import POOL, open_stage
from tests.pools import ORIGIN


async def test_fifteen_spawns_into_an_empty_pool_fill_two_workers(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool()
        await stage.started(pool, await pool.worker("w1"), 10)
        await stage.started(pool, await pool.worker("w2"), 5)
        await stage.settle()
        row = await stage.views.pool(POOL)
    assert row is not None
    assert (
        row.process_count,
        row.total_capacity,
        row.used_capacity,
        row.available_capacity,
        row.agent_count,
        row.utilization,
        row.active_worker_processes,
    ) == (2, 20, 15, 5, 15, 0.75, 2)


async def test_the_views_agree_with_the_fold_of_the_log(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool()
        living = await stage.play(pool)
        await stage.settle()
        rows = {row.agent_id: row for row in await stage.views.agents(AgentFilter())}
        assert {row.agent_id for row in rows.values() if not row.ended_at} == set(living)
        for agent_id, row in rows.items():
            found = await stage.log.agent(POOL, agent_id)
            assert found is not None
            assert (row.status, row.version, row.incarnation, row.process_id) == (
                found.status,
                found.version,
                found.incarnation,
                found.worker_id,
            )
        failed = next(row for row in rows.values() if row.status == "failed")
        assert failed.last_error is not None
        assert (failed.last_error.message, failed.failures) == ("no ✗", 1)
        assert (failed.input, failed.labels) == ({"task": "x"}, {"team": "core"})
        for text, status in (("no ✗", "failed"), ("VALUEERROR", "failed"), ("no %", "")):
            wanted = AgentFilter(text=text, status=("failed",))
            listed = [row.status for row in await stage.views.agents(wanted)]
            assert listed == ([status] if status else [])
        counts = await stage.views.count_agents()
        assert counts == {POOL: {"pending": 3, "running": 1}}
        by_id = {row.worker_id: row for row in await stage.views.workers(ended=True)}
        assert {k: (w.status, w.agent_count) for k, w in by_id.items()} == {
            "w1": ("lost", 0),
            "w2": ("draining", 1),
            "w3": ("requested", 0),
        }
        assert [row.worker_id for row in await stage.views.workers()] == ["w2", "w3"]


async def test_agents_are_found_by_their_properties_page_by_page(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool()
        for n in range(5):
            await pool.spawn(project=f"p{n % 2}", labels={"n": f'"{n}'})
        await stage.settle()
        views = stage.views
        first = await views.agents(AgentFilter(), limit=3)
        rest = await views.agents(AgentFilter(), after=first[-1].agent_id, limit=3)
        ids = [row.agent_id for row in (*first, *rest)]
        assert (len(ids), ids) == (5, sorted(ids))
        assert len(await views.agents(AgentFilter(project_id="p1"))) == 2
        assert len(await views.agents(AgentFilter(pool_name="other"))) == 0
        [labelled] = await views.agents(AgentFilter(label=("n", '"3')))
        assert labelled.project_id == "p1"
        assert await views.agents(AgentFilter(label=("n", "3"))) == []
        await stage.act(pool, ids[0], Terminate())
        await stage.settle()
        assert len(await views.agents(AgentFilter(ended=False))) == 4
        [ended] = await views.agents(AgentFilter(ended=True, status=("terminated",)))
        assert (ended.agent_id, ended.reason) == (ids[0], "requested")
        assert await views.agent(ids[0], "other") is None


async def test_a_pending_agent_shows_what_it_waits_for(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool(max_workers=1)

        async def reason(agent_id: str) -> str:
            await stage.settle()
            row = await stage.views.agent(agent_id)
            assert row is not None
            return row.reason

        agent_id = (await pool.spawn()).agent_id
        assert await reason(agent_id) == "waiting to be claimed"
        await pool.order("w0")
        assert await reason(agent_id) == "a worker is starting"
        fence = await pool.worker("w1", slots=1)
        await pool.claim(fence)
        other = (await pool.spawn()).agent_id
        assert await reason(other) == "pool is at its maximum of 1 workers"
        await stage.act(pool, agent_id, agent_commands.Release(reason="drain"), fence=fence)
        assert await reason(agent_id) == "waiting to be claimed (drain)"


async def test_pools_and_hosts_follow_the_catalogue(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        await stage.pool()
        gone = await stage.pool("gone")
        await stage.catalogue.change_pool(POOL, lambda _: PoolConfig(max_workers=3), ORIGIN)
        await stage.catalogue.delete_pool(gone.pool, ORIGIN, reason="t")
        await stage.catalogue.join_host("h", "box", 1, ORIGIN)
        await stage.catalogue.cordon_host("h", "update", ORIGIN)
        await stage.settle()
        [row] = await stage.views.pools()
        [host] = await stage.views.hosts()
        assert await stage.views.pool("gone") is None
    assert (row.pool_name, row.config["max_workers"], row.utilization) == (POOL, 3, 0.0)
    assert (host.hostname, host.status, host.reason) == ("box", "cordoned", "update")


async def test_a_wait_for_an_event_that_does_not_come_ends_in_time(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        started = time.monotonic()
        assert not await stage.views.wait_for(POOL, 1, timeout_seconds=0.1)
        assert time.monotonic() - started < 5


async def test_ids_and_projects_are_found_without_reading_all_rows(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool()
        ids = sorted([(await pool.spawn(project=p)).agent_id for p in ("one", "two", "two")])
        await stage.settle()
        for part in (ids[0], ids[0][:-1], ids[0][1:], ids[0][-6:]):
            found = await stage.views.find_ids("agent", part, limit=10)
            assert found == [(ids[0], POOL, "pending")]
        assert [row[0] for row in await stage.views.find_ids("agent", ids[0][:6], limit=2)] == ids[
            :2
        ]
        for part in ("%%%%%%", "______", "", ids[0][:5], f"{ids[0]}0", "zzzzzz"):
            assert await stage.views.find_ids("agent", part, limit=10) == []
        assert await stage.views.projects() == ["one", "two"]
        assert await stage.views.has_project("two")
        assert not await stage.views.has_project("twu")
