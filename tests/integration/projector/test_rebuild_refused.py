"""A rebuild that a damaged log does not allow leaves the views as they are."""

import pytest
import redis

from eventstore.keys import CATALOGUE
from projector.queries.views import AgentFilter
from projector.rebuild.bounds import LogDamaged
from projector.rebuild.rebuild import Rebuild
from projector.store.lease import Lease
from projector.verify.verification import verify
from tests.integration.projector.rebuilding import replayed, tables_of
from tests.integration.projector.stage import POOL, open_stage
from tests.waiting import until


async def test_a_damaged_log_leaves_the_views_as_they_are(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting() as projector:
            await stage.play(await stage.pool())
            await stage.settle()
            before = await stage.contents()
            await stage.sql("DELETE FROM {}events WHERE pool <> '' AND seq BETWEEN 4 AND 6")
            stage.trim(3)
            with pytest.raises(LogDamaged, match="seq 4 is missing"):
                await replayed(stage)
            await until(lambda: projector.phase == "active")
            assert await stage.contents() == before
        assert not {name for name in await tables_of(stage) if name.startswith("fresh_")}


async def test_a_refused_rebuild_that_archived_more_leaves_the_views_as_they_are(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It archived a spawn in another pool, which the views do not have yet."""
    compare = Rebuild._compare

    async def meanwhile(self: Rebuild) -> None:
        await other.spawn()
        await compare(self)

    monkeypatch.setattr(Rebuild, "_compare", meanwhile)
    async with open_stage(redis_url, views_url) as stage:
        async with stage.projecting() as projector:
            other = await stage.pool("other")
            await stage.play(await stage.pool())
            await stage.settle()
            before = await stage.contents()
            await stage.sql("DELETE FROM {}events WHERE pool = :pool AND seq < 7 AND seq > 3",
                            pool=POOL)  # fmt: skip
            stage.trim(3)
            with pytest.raises(LogDamaged, match="seq 4 is missing"):
                await replayed(stage)
            await until(lambda: projector.phase == "active")
            await stage.settle()
            after = await stage.contents()
        assert [row for row in after["agents"] if row["pool_name"] == POOL] == before["agents"]
        assert len(await stage.views.agents(AgentFilter(pool_name="other"))) == 1


async def test_a_pool_that_is_created_after_the_catalogue_was_folded_is_no_damage(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue has grown when the ends of all logs are read again."""
    fold_stream = Rebuild._fold_stream

    async def meanwhile(self: Rebuild, pool: str, projector: Lease) -> None:
        await fold_stream(self, pool, projector)
        if pool == CATALOGUE:
            monkeypatch.setattr(Rebuild, "_fold_stream", fold_stream)
            await (await stage.pool("later")).spawn()

    async with open_stage(redis_url, views_url) as stage:
        await stage.play(await stage.pool())
        monkeypatch.setattr(Rebuild, "_fold_stream", meanwhile)
        assert (await replayed(stage))[-1].finished
        assert await stage.views.pool("later") is not None
        await stage.catch_up()
        assert (await verify(redis_url, "", views_url)).equal


async def test_a_stream_that_ends_too_soon_is_damaged(redis_url: str, views_url: str) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool()
        await pool.spawn()
        await pool.spawn()
        with redis.Redis.from_url(redis_url) as client:
            stream = f"pool:{{{POOL}}}:events"
            client.xdel(stream, client.xrevrange(stream, count=1)[0][0])
        with pytest.raises(LogDamaged, match="seq 2 to 2 are neither in the stream"):
            await replayed(stage)


async def test_an_empty_redis_leaves_the_views_as_they_are(redis_url: str, views_url: str) -> None:
    """The archive is empty too: there is less in the log than in the views."""
    async with open_stage(redis_url, views_url) as stage:
        async with stage.projecting():
            await (await stage.pool()).spawn()
            await stage.settle()
        await stage.sql("DELETE FROM {}events")
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        with pytest.raises(LogDamaged, match="the views at 1"):
            await replayed(stage)
        assert len(await stage.views.agents(AgentFilter())) == 1
