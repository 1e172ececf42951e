"""From the log into the views, on real servers and both databases."""

import asyncio
import statistics
import time

import msgspec
import pytest
from sqlalchemy import Connection, text

from eventstore.language import agent_commands
from eventstore.language.agent_commands import Terminate
from eventstore.language.pool_config import PoolConfig
from projector.fold import projection
from projector.queries.views import AgentFilter
from projector.rebuild.rebuild import Progress, RebuildOptions, replay
from projector.service.projector import Phase
from projector.store.database import Database
from projector.verify.verification import verify
from tests.integration.projector.stage import POOL, Stage, heartbeat, open_stage
from tests.pools import ORIGIN
from tests.waiting import until


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


async def test_the_views_hold_what_the_fold_of_the_log_says(
    redis_url: str, database_url: str
) -> None:
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
        counts = await stage.views.count_agents()
        assert counts == {POOL: {"pending": 3, "running": 1}}
        by_id = {row.worker_id: row for row in await stage.views.workers(ended=True)}
        assert {k: (w.status, w.agent_count) for k, w in by_id.items()} == {
            "w1": ("lost", 0),
            "w2": ("draining", 1),
            "w3": ("requested", 0),
        }
        assert [row.worker_id for row in await stage.views.workers()] == ["w2", "w3"]


async def test_the_archive_has_every_event_as_it_was_in_the_stream(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool()
        await stage.play(pool)
        await stage.settle()
        archived = await stage.views.events(POOL)
        entries = await stage.log.client.execute_command(
            "XRANGE", f"pool:{{{POOL}}}:events", "-", "+"
        )
        assert len(archived) == len(entries)
        for row, (stream_id, fields) in zip(archived, entries, strict=True):
            stored = msgspec.structs.asdict(row)
            names = [name.decode() for name in fields[::2]]
            assert row.stream_id == stream_id.decode()
            assert [str(stored[n] or "") for n in names] == [v.decode() for v in fields[1::2]]
        claims = await stage.views.events(POOL, types=("agent.claimed",), after_seq=3)
        assert {row.type for row in claims} == {"agent.claimed"}
        newest = await stage.views.recent(("worker.lost", "agent.failed"), since_ms=0)
        assert [row.type for row in newest] == ["worker.lost", "agent.failed"]


async def test_agents_are_found_by_what_is_known_of_them_page_by_page(
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


async def test_a_pending_agent_says_what_it_waits_for(redis_url: str, database_url: str) -> None:
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


async def test_heartbeats_reach_the_live_tables_only(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool()
        fence = await pool.worker("w")
        idle, busy = await stage.started(pool, fence, 2)
        await stage.settle()
        before = await stage.contents()
        beat = {"agents": {idle: "idle", busy: "busy"}, "loop_lag_ms": 1.5, "agent_count": 2}
        await heartbeat(stage, pool, fence, msgspec.json.encode(beat).decode())

        async def lag() -> float:
            return (await stage.views.workers())[0].loop_lag_ms

        assert await until(lag) == 1.5
        rows = {row.agent_id: row for row in await stage.views.agents(AgentFilter())}
        assert (rows[idle].activity, rows[busy].activity) == ("idle", "busy")
        assert rows[busy].last_heartbeat > 0
        assert await stage.contents() == before
        await stage.act(pool, busy, agent_commands.Release(reason="drain"), fence=fence)
        await stage.settle()
        released = await stage.views.agent(busy)
        assert released is not None
        assert (released.activity, released.last_heartbeat) == ("", 0)


async def test_a_restarted_projector_continues_from_its_rows(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting():
            fence = await pool.worker("w1")
            ids = await stage.started(pool, fence, 4)
            await stage.crash(pool, ids[0], fence)
            await stage.settle()
        await stage.crash(pool, ids[1], fence)
        await stage.act(pool, ids[0], agent_commands.Restart())
        async with stage.projecting():
            await stage.settle()
            await stage.crash(pool, ids[2], fence)
            await stage.settle()
        assert len(await stage.views.events(POOL)) == await stage.head(POOL)
        for agent_id in ids:
            row, found = await stage.views.agent(agent_id), await stage.log.agent(POOL, agent_id)
            assert row is not None
            assert found is not None
            assert (row.version, row.status, row.failures) == (
                found.version,
                found.status,
                len(found.failures),
            )
        [worker] = await stage.views.workers()
        assert worker.agent_count == 1


async def test_what_has_left_the_memory_is_read_from_its_row(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "CACHE_MAX", 1)
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool()
        await stage.play(pool)
        await stage.settle()
        await stage.play(pool, "v")
        await stage.settle()
        assert (await verify(redis_url, "", database_url)).differences == []


async def test_it_works_through_pgbouncer_in_transaction_mode(
    redis_url: str, pgbouncer_url: str
) -> None:
    async with open_stage(redis_url, pgbouncer_url) as stage, stage.projecting():
        pool = await stage.pool()
        await stage.play(pool)
        await stage.settle()
        reported: list[Progress] = []
        options = RebuildOptions(redis_url=redis_url, database_url=pgbouncer_url)
        assert (await replay(options, reported.append)).finished
        await pool.spawn()
        await stage.settle()
        assert (await verify(redis_url, "", pgbouncer_url)).differences == []


async def test_many_that_start_at_once_make_the_tables_once(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(8)]
    for database in databases:
        database.open()
    await asyncio.gather(*(database.prepare() for database in databases))
    for database in databases:
        assert await database.read(database._complete)
        await database.close()
        await database.close()


async def test_the_owner_of_the_schema_need_not_be_allowed_to_create_one(postgres_url: str) -> None:
    root = Database(postgres_url)
    owner = f"owner_of_{root.url.database}"

    def prepared(connection: Connection) -> None:
        connection.execute(text(f"CREATE ROLE {owner} LOGIN"))
        connection.execute(text(f"CREATE SCHEMA muster AUTHORIZATION {owner}"))

    root.open()
    await root.write(prepared)
    await root.close()
    database = Database(root.url.set(username=owner).render_as_string())
    database.open()
    await database.prepare()
    assert await database.read(database._complete)
    await database.close()


async def test_an_event_is_in_the_views_within_moments(redis_url: str, database_url: str) -> None:
    """Nothing on the way polls: far sooner than any interval of the projector."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting(audit_seconds=30.0, heartbeat_seconds=30.0):
            await pool.spawn()
            await stage.settle()
            took = []
            for _ in range(20):
                began = time.monotonic()
                seq = (await pool.spawn()).seq
                assert await stage.views.wait_for(POOL, seq, timeout_seconds=10)
                took.append(time.monotonic() - began)
    assert statistics.median(took) < 0.1


async def test_waiting_for_what_does_not_come_ends_in_time(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        began = time.monotonic()
        assert not await stage.views.wait_for(POOL, 1, timeout_seconds=0.1)
        assert time.monotonic() - began < 5


async def test_stopping_twice_and_before_anything_answers_is_safe(redis_url: str) -> None:
    stage = Stage.__new__(Stage)
    stage.redis_url, stage.database_url = redis_url, "postgresql://127.0.0.1:1/none"
    projector = stage.projector()
    await projector.stop()
    await projector.start()
    await until(lambda: projector.phase is Phase.WAITING)
    await projector.stop()
    await projector.stop()
    assert projector.phase is Phase.STOPPED


@pytest.mark.parametrize("url", ["mysql://h/d", "sqlite://", "not a url"])
def test_an_address_of_no_known_database_is_refused(url: str) -> None:
    from eventstore.errors import ConfigurationError
    from projector.service.active import ProjectorOptions
    from projector.service.projector import Projector

    with pytest.raises(ConfigurationError):
        Projector(ProjectorOptions(redis_url="redis://h", database_url=url))
