"""What was trimmed from the catalogue is in its snapshot: nobody misses it."""

import pytest
import redis
from msgspec.structs import replace

from eventstore.errors import Unreadable
from eventstore.keys import CATALOGUE
from eventstore.language.catalogue import Catalogue
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.reader import Reader
from eventstore.log.replies import Outcome
from eventstore.retention import Retention
from projector.rebuild.rebuild import RebuildOptions, replay
from projector.verify.verification import verify
from tests.integration.projector.recovering import recovered, wipe
from tests.integration.projector.stage import POOL, QUICK, Stage, open_stage
from tests.pools import ORIGIN
from tests.waiting import until

STREAM, SNAPSHOT = "muster:catalogue", "{muster:catalogue}:snapshot"
ONE = Retention(events=1)
TRIMMING = {"retention": ONE, "trim_seconds": 0.05}


def first_seq(stage: Stage) -> int:
    with redis.Redis.from_url(stage.redis_url) as client:
        entries = client.xrange(STREAM, count=1)
    return int(entries[0][1][b"seq"])


def folded(state: Catalogue) -> tuple[object, ...]:
    """All but the generation, which only a recovery records."""
    return state.pools, state.hosts, state.seq, state.stream_id


async def change_pools(stage: Stage, number: int = 3) -> None:
    """Some that remain, one that was changed, one that was deleted, hosts that come and leave."""
    for index in range(number):
        await stage.pool(f"pool{index}", **QUICK)
    catalogue = stage.catalogue
    await catalogue.change_pool("pool0", lambda config: replace(config, max_workers=7), ORIGIN)
    deleted = catalogue.state.pools["pool1"]
    await catalogue.delete_pool(deleted, ORIGIN, reason="requested")
    await catalogue.join_host("h", "host", 1, ORIGIN)
    await catalogue.cordon_host("h", "host-shutdown", ORIGIN)


async def trimmed(stage: Stage) -> None:
    await stage.settle()
    last = await stage.head(CATALOGUE)
    await until(lambda: first_seq(stage) == last, what="a catalogue of which one event remains")


async def test_readers_go_on_where_the_catalogue_was_trimmed(
    redis_url: str, views_url: str
) -> None:
    """New ones, one that is behind, and one that follows; and all may change it."""
    async with open_stage(redis_url, views_url) as stage, stage.projecting(**TRIMMING):
        reader = Reader(redis_url)
        behind, follower, new = (CatalogueLog(stage.log, reader) for _ in range(3))
        await stage.pool(POOL, **QUICK)
        await behind.start()
        await follower.start()
        await change_pools(stage)
        await trimmed(stage)
        for catalogue in (behind, new):
            assert folded(await catalogue.start()) == folded(stage.catalogue.state)
        entries = await reader.range(STREAM)
        follower.apply(entries)
        assert follower.invalidated
        assert folded(await follower.refresh()) == folded(stage.catalogue.state)
        deleted = await new.delete_pool(new.state.pools[POOL], ORIGIN, reason="requested")
        assert deleted.outcome is Outcome.DONE
        assert folded(await behind.refresh()) == folded(new.state)
        await reader.close()


async def test_without_the_snapshot_no_reader_starts_until_a_projector_has_stored_it_again(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        reader = Reader(redis_url)
        async with stage.projecting(**TRIMMING):
            await change_pools(stage)
            await trimmed(stage)
        with redis.Redis.from_url(redis_url) as client:
            client.delete(SNAPSHOT)
            with pytest.raises(Unreadable, match="restart the projector"):
                await CatalogueLog(stage.log, reader).start()
            async with stage.projecting(trim_seconds=0.05):
                await until(lambda: client.exists(SNAPSHOT), what="a snapshot")
        assert folded(await CatalogueLog(stage.log, reader).start()) == folded(
            stage.catalogue.state
        )
        await reader.close()


async def test_trimming_changes_neither_views_nor_what_can_be_rebuilt(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        async with stage.projecting():
            await stage.pool(POOL, **QUICK)
            await change_pools(stage)
            await stage.settle()
            before = await stage.contents()
        async with stage.projecting(**TRIMMING):
            await trimmed(stage)
            assert (await verify(redis_url, "", views_url)).differences == []
            options = RebuildOptions(redis_url=redis_url, database_url=views_url)
            await replay(options, lambda _: None)
            assert await stage.contents() == before


@pytest.mark.usefixtures("no_leases", "no_reports")
async def test_a_lost_catalogue_is_recovered_without_its_old_snapshot(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        async with stage.projecting(**TRIMMING):
            await stage.pool(POOL, **QUICK)
            await change_pools(stage)
            await trimmed(stage)
        before = stage.catalogue.state
        with redis.Redis.from_url(redis_url) as client:
            client.delete(STREAM)
            assert client.exists(SNAPSHOT)
            await recovered(stage)
            assert not client.exists(SNAPSHOT)
        reader = Reader(redis_url)
        state = await CatalogueLog(stage.log, reader).start()
        await reader.close()
        assert (state.pools, state.hosts) == (before.pools, before.hosts)
        wipe(redis_url)
        await recovered(stage)


async def test_views_start_from_the_snapshot_where_the_database_was_lost(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        async with stage.projecting(**TRIMMING):
            await stage.pool(POOL, **QUICK)
            await change_pools(stage)
            await trimmed(stage)
        before = await stage.contents()
        lost = [*(f"DELETE FROM {{}}{table}" for table in (*before, "events"))]
        for statement in lost:
            await stage.sql(statement)
        async with stage.projecting():
            await stage.settle()
            assert await stage.all_ok()
            after = await stage.contents()
            assert (after["pools"], after["hosts"]) == (before["pools"], before["hosts"])
            await stage.pool("later", **QUICK)
            await stage.settle()
            options = RebuildOptions(redis_url=redis_url, database_url=views_url)
            await replay(options, lambda _: None)
            assert {row["pool_name"] for row in (await stage.contents())["pools"]} == {
                *stage.catalogue.state.pools
            }
