"""A projector applies the log to the views, on real servers and both databases."""

import statistics
import time

import msgspec
import pytest

from eventstore.language import agent_commands
from projector.fold import prior_states
from projector.queries.views import AgentFilter
from projector.rebuild.rebuild import Progress, RebuildOptions, replay
from projector.service.projector import Phase
from projector.usage import ledger
from projector.verify.verification import verify
from tests.integration.projector.stage import POOL, Stage, heartbeat, open_stage
from tests.waiting import until


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


async def test_heartbeats_reach_the_live_tables_only(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool()
        fence = await pool.worker("w")
        idle, busy = await stage.started(pool, fence, 2)
        await stage.settle()
        before = await stage.contents()
        reported = {"agents": {idle: "idle", busy: "busy"}, "loop_lag_ms": 1.5, "agent_count": 2}
        await heartbeat(stage, pool, fence, msgspec.json.encode(reported).decode())

        async def lag() -> float:
            return (await stage.views.workers())[0].loop_lag_ms

        assert await until(lag) == 1.5
        rows = {row.agent_id: row for row in await stage.views.agents(AgentFilter())}
        assert (rows[idle].activity, rows[busy].activity) == ("idle", "busy")
        assert rows[busy].last_heartbeat is not None
        assert await stage.contents() == before
        await stage.act(pool, busy, agent_commands.Release(reason="drain"), fence=fence)
        await stage.settle()
        released = await stage.views.agent(busy)
        assert released is not None
        assert (released.activity, released.last_heartbeat) == ("", None)


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


async def test_agents_that_are_no_longer_cached_are_read_from_their_rows(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prior_states, "CACHE_MAX", 1)
    monkeypatch.setattr(ledger, "CACHE_MAX", 1)
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool()
        await stage.play(pool)
        await stage.settle()
        await stage.play(pool, "v")
        await stage.settle()
        assert (await verify(redis_url, "", database_url)).differences == []


async def test_a_projector_works_through_pgbouncer_in_transaction_mode(
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


async def test_an_event_is_in_the_views_at_once(redis_url: str, views_url: str) -> None:
    """Nothing in between polls: it takes far less than any interval of the projector."""
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool()
        async with stage.projecting(audit_seconds=30.0, heartbeat_seconds=30.0):
            await pool.spawn()
            await stage.settle()
            took, spawning = [], []
            for _ in range(20):
                started = time.monotonic()
                seq = (await pool.spawn()).seq
                spawning.append(time.monotonic() - started)
                assert await stage.views.wait_for(POOL, seq, timeout_seconds=10)
                took.append(time.monotonic() - started)
    busy = 10 * statistics.median(spawning)  # the machine, with other things
    assert statistics.median(took) < max(0.1, busy)


async def test_stopping_twice_and_before_a_server_answers_is_safe(redis_url: str) -> None:
    stage = Stage.__new__(Stage)
    stage.redis_url, stage.database_url = redis_url, "postgresql://127.0.0.1:1/none"
    projector = stage.projector()
    await projector.stop()
    await projector.start()
    await until(lambda: projector.phase is Phase.WAITING)
    await projector.stop()
    await projector.stop()
    assert projector.phase is Phase.STOPPED
