"""All views can be dropped and rebuilt from the log, while everything goes on."""

import asyncio

import pytest
import redis

from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import Terminate
from projector.intake.source import Source
from projector.queries.views import AgentFilter
from projector.rebuild.bounds import LogDamaged
from projector.rebuild.rebuild import Progress, Rebuild, RebuildOptions, replay
from projector.rebuild.view_sets import RebuildInProgress
from projector.store.database import Database
from projector.store.lease import Lease, LeaseState
from projector.store.tables import VIEW_VERSION
from projector.verify.verification import verify
from tests.integration.projector.stage import POOL, VIEWS, Stage, open_stage
from tests.waiting import until


async def replayed(stage: Stage, batch: int = 7, *, lease_seconds: float = 2.0) -> list[Progress]:
    reported: list[Progress] = []
    options = RebuildOptions(
        redis_url=stage.redis_url,
        database_url=stage.database_url,
        batch=batch,
        lease_seconds=lease_seconds,
    )
    done = await replay(options, reported.append)
    assert done == reported[-1]
    return reported


async def tables(stage: Stage) -> set[str]:
    database = Database(stage.database_url)
    database.open()
    try:
        return await database.read(database._existing)
    finally:
        await database.close()


async def test_views_rebuilt_are_equal_to_those_before(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting():
            pool = await stage.pool()
            await stage.play(pool)
            await stage.settle()
        before = await stage.contents()
        await stage.sql("UPDATE {}agents SET status = 'failed', reason = 'planted'")
        reported = await replayed(stage)
        assert await stage.contents() == before
    done = reported[-1]
    assert done.finished
    seqs = [row["seq"] for row in before["checkpoints"]]
    assert done.events == done.total == sum(seqs) > 30
    assert [p.events for p in reported] == sorted(p.events for p in reported)
    assert done.rate > 0


@pytest.mark.parametrize("archive", ["retained", "dropped"])
async def test_dropped_views_come_back_from_what_is_left(
    redis_url: str, database_url: str, archive: str
) -> None:
    """Without an archive it is refilled from the streams; where they are trimmed it is enough."""
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting():
            await stage.play(await stage.pool())
            await stage.settle()
        before, events = await stage.contents(), await stage.views.events(POOL)
        await stage.sql("DROP VIEW {}pool_capacity")
        for name in (*VIEWS, *(["events"] if archive == "dropped" else [])):
            await stage.sql(f"DROP TABLE {{}}{name}")
        if archive == "retained":
            with redis.Redis.from_url(redis_url) as client:
                client.xtrim(f"pool:{{{POOL}}}:events", maxlen=2, approximate=False)
        await replayed(stage)
        assert await stage.contents() == before
        assert await stage.views.events(POOL) == events
        assert (await verify(redis_url, "", database_url)).equal
        await stage.catch_up()
        assert await stage.contents() == before


async def test_a_projector_that_finds_the_views_dropped_rebuilds_them_itself(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting():
            await stage.play(await stage.pool())
            await stage.settle()
        before = await stage.contents()
        await stage.sql("DROP TABLE {}workers" + (" CASCADE" if "postgres" in database_url else ""))
        async with stage.projecting():
            await stage.settle()
            assert await stage.contents() == before


async def test_readers_never_get_empty_or_half_built_views(
    redis_url: str, database_url: str
) -> None:
    """Spawns and ends come in, queries are asked, and the views are rebuilt again and again."""
    async with open_stage(redis_url, database_url) as stage, stage.projecting():
        pool = await stage.pool(backlog_limit=100_000)
        await asyncio.gather(*(pool.spawn() for _ in range(40)))
        await stage.settle()
        done = asyncio.Event()

        async def write() -> None:
            while not done.is_set():
                submitted = await pool.spawn()
                await stage.act(pool, submitted.agent_id, Terminate())
                await asyncio.sleep(0.001)

        async def read() -> int:
            asked, last = 0, 0
            while not done.is_set():
                row = await stage.views.pool(POOL)
                assert row is not None
                assert row.agent_count in (40, 41)
                at = (await stage.views.positions())[POOL].seq
                assert at >= last
                asked, last = asked + 1, at
            return asked

        working = [asyncio.create_task(write()), asyncio.create_task(read())]
        try:
            for _ in range(4):
                assert (await replayed(stage, batch=50))[-1].finished
        finally:
            done.set()
        assert (await asyncio.gather(*working))[1] > 5  # type: ignore[operator]
        await stage.settle()
        assert (await verify(redis_url, "", database_url)).equal


async def test_what_an_interrupted_rebuild_left_is_gone_after_the_next(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting():
            await stage.play(await stage.pool())
            await stage.settle()
        before, named = await stage.contents(), await tables(stage)
        database, source = Database(database_url), Source(redis_url, "")
        database.open()
        broken = Rebuild(database, source, batch=3)
        await broken.start()
        await broken.fold_archive()  # and here its process was killed
        await source.close()
        await database.close()
        assert "fresh_agents" in await tables(stage)
        await replayed(stage, lease_seconds=0.6)
        assert await tables(stage) == named
        assert await stage.contents() == before


async def test_two_rebuilds_at_once_are_refused(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one renews its lease between any two checks of the second."""
    read_state = Lease._read_state

    async def renewed(self: Lease) -> LeaseState:
        if self.name == other.name:
            await other.renew()
        return await read_state(self)

    async with open_stage(redis_url, database_url) as stage:
        database = Database(database_url)
        database.open()
        other = Lease(database, "rebuild")
        await other.acquire()
        monkeypatch.setattr(Lease, "_read_state", renewed)
        try:
            with pytest.raises(RebuildInProgress):
                await replayed(stage, lease_seconds=0.6)
        finally:
            await database.close()


async def test_a_damaged_log_leaves_the_views_as_they_are(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting() as projector:
            await stage.play(await stage.pool())
            await stage.settle()
            before = await stage.contents()
            await stage.sql("DELETE FROM {}events WHERE pool <> '' AND seq BETWEEN 4 AND 6")
            with redis.Redis.from_url(redis_url) as client:
                client.xtrim(f"pool:{{{POOL}}}:events", maxlen=3, approximate=False)
            with pytest.raises(LogDamaged, match="seq 4 is missing"):
                await replayed(stage)
            await until(lambda: projector.phase == "active")
            assert await stage.contents() == before
        assert not {name for name in await tables(stage) if name.startswith("fresh_")}


async def test_views_stay_as_they_are_also_where_a_refused_rebuild_archived_more(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents were spawned in another pool without a projector: the archive is ahead of them."""
    compare = Rebuild._compare

    async def meanwhile(self: Rebuild) -> None:
        await other.spawn()
        await compare(self)

    monkeypatch.setattr(Rebuild, "_compare", meanwhile)
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting() as projector:
            other = await stage.pool("other")
            await stage.play(await stage.pool())
            await stage.settle()
            before = await stage.contents()
            await stage.sql("DELETE FROM {}events WHERE pool = :pool AND seq < 7 AND seq > 3",
                            pool=POOL)  # fmt: skip
            with redis.Redis.from_url(redis_url) as client:
                client.xtrim(f"pool:{{{POOL}}}:events", maxlen=3, approximate=False)
            with pytest.raises(LogDamaged, match="seq 4 is missing"):
                await replayed(stage)
            await until(lambda: projector.phase == "active")
            await stage.settle()
            after = await stage.contents()
        assert [row for row in after["agents"] if row["pool_name"] == POOL] == before["agents"]
        assert len(await stage.views.agents(AgentFilter(pool_name="other"))) == 1


async def test_a_pool_that_is_created_once_the_catalogue_was_folded_is_no_damage(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is another one when the ends of all logs are asked for again."""
    fold_stream = Rebuild._fold_stream

    async def meanwhile(self: Rebuild, pool: str, projector: Lease) -> None:
        await fold_stream(self, pool, projector)
        if pool == CATALOGUE:
            monkeypatch.setattr(Rebuild, "_fold_stream", fold_stream)
            await (await stage.pool("later")).spawn()

    async with open_stage(redis_url, database_url) as stage:
        await stage.play(await stage.pool())
        monkeypatch.setattr(Rebuild, "_fold_stream", meanwhile)
        assert (await replayed(stage))[-1].finished
        assert await stage.views.pool("later") is not None
        await stage.catch_up()
        assert (await verify(redis_url, "", database_url)).equal


async def test_a_stream_that_ends_too_soon_is_damaged(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        await pool.spawn()
        await pool.spawn()
        with redis.Redis.from_url(redis_url) as client:
            stream = f"pool:{{{POOL}}}:events"
            client.xdel(stream, client.xrevrange(stream, count=1)[0][0])
        with pytest.raises(LogDamaged, match="seq 2 to 2 are neither in the stream"):
            await replayed(stage)


async def test_a_lost_redis_does_not_take_the_views_along(
    redis_url: str, database_url: str
) -> None:
    """Archive dropped and Redis empty: there is less in the log than in the views."""
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting():
            await (await stage.pool()).spawn()
            await stage.settle()
        await stage.sql("DELETE FROM {}events")
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        with pytest.raises(LogDamaged, match="the views at 1"):
            await replayed(stage)
        assert len(await stage.views.agents(AgentFilter())) == 1


async def test_views_of_another_version_are_built_again(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting():
            await stage.play(await stage.pool())
            await stage.settle()
        before = await stage.contents()
        await stage.sql("UPDATE {}view_versions SET version = -1")
        await stage.sql("ALTER TABLE {}agents ADD COLUMN surplus TEXT")
        async with stage.projecting():
            await stage.settle()
            assert await stage.contents() == before
        [row] = await stage.sql("SELECT version FROM {}view_versions WHERE name = 'views'")
        assert row["version"] == VIEW_VERSION


async def test_views_of_a_newer_version_are_left_alone(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage:
        await stage.sql("UPDATE {}view_versions SET version = 99")
        projector = stage.projector()
        await projector.start()
        try:
            await until(lambda: projector._outage)
            assert projector.phase != "active"
        finally:
            await projector.stop()
