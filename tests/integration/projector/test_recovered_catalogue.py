"""Pools after a loss: recovered with the catalogue, deleted, or never archived."""

from collections.abc import Iterable
from typing import Any

import pytest
import redis

from eventstore.keys import CATALOGUE, Keys
from eventstore.language.agent_commands import Terminate
from eventstore.language.pool_config import PoolConfig
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.log.replies import LogHead, Outcome
from projector.intake.source import Source
from projector.recovery.recovery import examine
from tests.integration.projector.recovering import options, recovered, require_equal, wipe
from tests.integration.projector.stage import EVENTS, POOL, QUICK, archived_story
from tests.pools import ORIGIN, raw_events

pytestmark = pytest.mark.usefixtures("no_leases")


async def test_a_projector_ahead_of_a_recovered_catalogue_folds_it_again(
    redis_url: str, views_url: str
) -> None:
    async with archived_story(redis_url, views_url) as (stage, _):
        reader = Reader(redis_url)
        follower = CatalogueLog(Log(stage.log.client, Keys()), reader)
        await stage.pool("unarchived", **QUICK)
        assert set((await follower.start()).live_pools()) == {POOL, "unarchived"}
        wipe(redis_url)
        done = await recovered(stage)
        assert done[CATALOGUE].seq == 1
        assert set((await follower.refresh()).live_pools()) == {POOL}
        assert follower.state.generation == 2
        created = await follower.create_pool("after", "developer", PoolConfig(**QUICK), ORIGIN)
        assert created.outcome is Outcome.DONE
        await reader.close()


async def test_known_pools_remain_visible_while_a_recovered_catalogue_is_folded(
    redis_url: str, views_url: str
) -> None:
    """Queries meanwhile must not find a system without pools and hosts."""
    observed: list[set[str]] = []

    class Watched(Reader):
        async def range(self, *arguments: Any, **options: Any) -> Any:
            observed.append(set(follower.state.live_pools()))
            return await super().range(*arguments, **options)

    async with archived_story(redis_url, views_url) as (stage, _):
        reader = Watched(redis_url)
        follower = CatalogueLog(Log(stage.log.client, Keys()), reader)
        await stage.pool("unarchived", **QUICK)
        await follower.start()
        wipe(redis_url)
        await recovered(stage)
        observed.clear()
        assert set((await follower.refresh()).live_pools()) == {POOL}
        assert all(POOL in pools for pools in observed)
        await reader.close()


async def test_a_pool_whose_log_is_created_while_logs_are_checked_is_not_lost(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The views know it from the catalogue, which is written first."""
    heads, initialise = Source.heads, Log.initialise

    async def later(_: Log, _name: str) -> None:
        """Its process is slow."""

    async def created_meanwhile(self: Source, pools: Iterable[str]) -> dict[str, LogHead]:
        answer = await heads(self, pools)
        await initialise(stage.log, "new")
        return answer

    async with archived_story(redis_url, views_url) as (stage, _pool):
        monkeypatch.setattr(Log, "initialise", later)
        await stage.pool("new")
        await stage.catch_up()
        monkeypatch.setattr(Source, "heads", created_meanwhile)
        assert await examine(options(stage)) == {}
        assert (await stage.log.head("new")).generation == 1


async def test_a_pool_that_was_never_archived_starts_as_a_later_generation(
    redis_url: str, views_url: str
) -> None:
    async with archived_story(redis_url, views_url) as (stage, _):
        new = await stage.pool("new", **QUICK)
        await stage.catch_up(CATALOGUE)
        lost = await new.spawn()
        wipe(redis_url)
        done = await recovered(stage)
        assert (done["new"].generation, done["new"].seq) == (2, 0)
        assert (await new.spawn()).outcome is Outcome.DONE
        assert await stage.log.agent("new", lost.agent_id) is None
        await require_equal(stage)


async def test_a_pool_that_was_never_archived_starts_above_the_generation_of_its_log(
    redis_url: str, views_url: str
) -> None:
    """That was the catalogue's. Below it the new log would pass for one that was rolled back."""
    async with archived_story(redis_url, views_url) as (stage, _):
        for generation in (2, 3):
            wipe(redis_url)
            assert (await recovered(stage))[CATALOGUE].generation == generation
            stage.log.raise_high_water_mark(CATALOGUE, generation, 0)
            await require_equal(stage)
        await stage.catalogue.refresh()
        new = await stage.pool("new", **QUICK)
        await stage.catch_up(CATALOGUE)
        await new.spawn()
        assert stage.log.high_water_mark("new") == (3, 1)
        wipe(redis_url)
        assert (await recovered(stage))["new"].generation == 4
        assert (await new.spawn()).outcome is Outcome.DONE
        await require_equal(stage)


async def test_a_pool_that_was_lost_with_the_catalogue_may_be_created_again(
    redis_url: str, views_url: str
) -> None:
    """Processes that knew its first log accept the second as a later one."""
    async with archived_story(redis_url, views_url) as (stage, _):
        new = await stage.pool("new", **QUICK)
        lost = [await new.spawn() for _ in range(3)]
        wipe(redis_url)
        assert "new" not in await recovered(stage)
        stage.log.raise_high_water_mark(CATALOGUE, 2, 0)
        await stage.catalogue.refresh()
        assert (await (await stage.pool("new", **QUICK)).spawn()).outcome is Outcome.DONE
        assert await stage.log.agent("new", lost[0].agent_id) is None
        await require_equal(stage)


async def test_agents_of_a_deleted_pool_end_where_their_end_was_lost(
    redis_url: str, views_url: str
) -> None:
    """The deletion is in the catalogue, which is intact; what it did in the pool is lost."""
    async with archived_story(redis_url, views_url) as (stage, pool):
        await stage.started(pool, await pool.worker("w"), 1)
        await stage.catch_up()
        living = await stage.log.live(POOL)
        await stage.catalogue.close_pool(pool.pool, ORIGIN, vacant=False)
        for agent_id in living:
            await stage.act(pool, agent_id, Terminate(reason="pool-deleted"))
        await stage.catalogue.delete_pool(pool.pool, ORIGIN, reason="requested")
        with redis.Redis.from_url(redis_url) as client:
            client.delete(EVENTS)
        await recovered(stage)
        stage.log.raise_high_water_mark(POOL, 2, 0)
        assert await stage.log.live(POOL) == []
        survey = await stage.log.survey(POOL)
        assert (survey.waiting, survey.restarting, survey.closed) == (0, 0, "1")
        ended = [event for event in raw_events(redis_url) if event["type"] == "agent.terminated"]
        assert set(living) <= {event["subject"] for event in ended}
        await require_equal(stage)
