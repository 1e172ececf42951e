"""Of a pool that was deleted long ago only the archive is left, and its name can be used again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import Terminate
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Entry, Reader
from eventstore.log.replies import LogHead, Outcome
from eventstore.log.retirement import Retirement
from eventstore.retention import Retention
from gateway.following.tail import Tail
from projector.rebuild.rebuild import RebuildOptions, replay
from projector.recovery.damage_scan import statuses
from projector.service import active
from projector.verify.verification import verify
from tests.chaos.judge import judge
from tests.integration.gateway.stage import gateway_stage
from tests.integration.projector.recovering import recovered, wipe
from tests.integration.projector.stage import Stage, open_stage
from tests.pools import ORIGIN, TestPool
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("no_leases", "no_reports")

GONE, KEPT = "gone", "kept"
USED = 9
"""Events of one use of a pool."""


@pytest.fixture(autouse=True)
def every_pass_has_all_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active, "DELETED_TURNS", 1)


@asynccontextmanager
async def removing(stage: Stage) -> AsyncIterator[None]:
    async with stage.projecting(retention=Retention(age_ms=0), trim_seconds=0.05):
        yield


async def use(stage: Stage, pool: TestPool, count: int = 3) -> None:
    for _ in range(count):
        agent = await pool.spawn()
        await stage.act(pool, agent.agent_id, Terminate())


async def delete(stage: Stage, name: str = GONE) -> None:
    found = stage.catalogue.state.pools[name]
    assert await stage.catalogue.close_pool(found, ORIGIN, vacant=True)
    done = await stage.catalogue.delete_pool(found, ORIGIN, reason="requested")
    assert done.outcome is Outcome.DONE


def keys_of(stage: Stage, name: str = GONE) -> list[bytes]:
    """Those that do not expire by themselves, and what the catalogue has of the pool."""
    with redis.Redis.from_url(stage.redis_url) as client:
        keys = [key for key in client.keys(f"*{{{name}}}:*") if client.ttl(key) == -1]
        meta = client.hkeys("{muster:catalogue}:meta") + client.hkeys("{muster:catalogue}:retiring")
    return sorted([*keys, *(field for field in meta if field.decode().endswith(name))])


async def removed(stage: Stage, *left: bytes) -> None:
    await until(lambda: keys_of(stage) == list(left), what=f"only {left} of the pool")
    await stage.catalogue.refresh()
    await stage.settle()


async def require_sound(stage: Stage) -> None:
    """Views, archive and Redis are what the log says, also for the judge, and after a replay."""
    assert (await verify(stage.redis_url, "", stage.database_url)).differences == []
    before = await stage.contents()
    options = RebuildOptions(redis_url=stage.redis_url, database_url=stage.database_url)
    await replay(options, lambda _: None)
    assert await stage.contents() == before
    assert judge(stage.redis_url, views=stage.database_url) == []


async def test_nothing_but_the_archive_is_left_of_a_pool(redis_url: str, database_url: str) -> None:
    async with open_stage(redis_url, database_url) as stage, removing(stage):
        await stage.pool(KEPT)
        await use(stage, await stage.pool(GONE))
        await stage.settle()
        await delete(stage)
        await removed(stage, b"retired:gone")
        assert set(stage.catalogue.state.pools) == {KEPT}
        contents = await stage.contents()
        assert [row["pool_name"] for row in contents["pools"]] == [KEPT]
        assert len(await stage.views.events(GONE)) == USED
        await require_sound(stage)


async def test_nothing_at_all_is_left_of_a_pool_that_was_not_used(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage, removing(stage):
        await stage.pool(GONE)
        await delete(stage)
        await removed(stage)
        await stage.pool(GONE)
        await delete(stage)
        await removed(stage)
        await require_sound(stage)


async def test_a_pool_of_the_same_name_continues_the_log(redis_url: str, views_url: str) -> None:
    """Its epochs too: no worker of the earlier pool can act in it."""
    async with open_stage(redis_url, views_url) as stage, removing(stage):
        for turn in (1, 2, 3):
            await use(stage, await stage.pool(GONE))
            assert await stage.log.allocate_epoch(GONE) == turn
            assert await stage.log.head(GONE) == LogHead(1, USED * turn)
            await stage.settle()
            if turn < 3:
                await delete(stage)
                await removed(stage, b"retired:gone")
        await require_sound(stage)


@pytest.mark.parametrize("again", [False, True])
async def test_a_removed_pool_survives_the_loss_of_redis(
    redis_url: str, views_url: str, again: bool
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        async with removing(stage):
            await use(stage, await stage.pool(GONE))
            await stage.settle()
            await delete(stage)
            await removed(stage, b"retired:gone")
            if again:
                await use(stage, await stage.pool(GONE))
                await stage.settle()
        wipe(redis_url)
        assert set(await recovered(stage)) == {CATALOGUE, *([GONE] if again else [])}
        await stage.catalogue.refresh()
        if not again:
            await use(stage, await stage.pool(GONE))
            assert await stage.log.head(GONE) == LogHead(1, 2 * USED)
        async with stage.projecting():
            await stage.settle()
            await require_sound(stage)


async def test_a_pool_is_not_removed_while_an_agent_is_left(redis_url: str, views_url: str) -> None:
    async with open_stage(redis_url, views_url) as stage, removing(stage):
        pool = await stage.pool(GONE)
        agent = await pool.spawn()
        await stage.catalogue.delete_pool(pool.pool, ORIGIN, reason="requested")
        await stage.settle()
        before = await stage.log.head(GONE)
        retirement = Retirement(stage.log, stage.catalogue, "test")
        retirement._age_ms = 0
        await retirement.remove(stage.catalogue.state.pools[GONE], before)
        assert GONE in (await stage.catalogue.refresh()).pools
        await stage.act(pool, agent.agent_id, Terminate())
        await removed(stage, b"retired:gone")


async def test_keys_of_a_pool_that_was_created_again_meanwhile_stay(redis_url: str, views_url: str):
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool(GONE)
        await use(stage, pool)
        await delete(stage)
        reader = Reader(redis_url)
        retirement = Retirement(stage.log, CatalogueLog(stage.log, reader), "test")
        retirement._age_ms = 0
        await retirement.remove(stage.catalogue.state.pools[GONE], await stage.log.head(GONE))
        await stage.catalogue.refresh()
        with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            token = client.hget("{muster:catalogue}:retiring", GONE)
        pool = await stage.pool(GONE)
        await retirement.delete_keys()
        assert await retirement._run(GONE, token, delete=True) is None  # by one that was slow
        await use(stage, pool)
        assert await stage.log.head(GONE) == LogHead(1, 2 * USED)
        await reader.close()


async def test_gateways_follow_a_pool_that_was_removed_and_created_again(
    redis_url: str, views_url: str
) -> None:
    """The one that followed it before, and one that starts when nothing was written yet."""
    async with gateway_stage(redis_url, views_url, projecting=False) as shown:
        stage = shown.stage
        async with removing(stage):
            pool = await stage.pool(GONE)
            await use(stage, pool)
            await stage.settle()
            await delete(stage)
            await removed(stage, b"retired:gone")
            backend = shown.gateway._backend
            assert backend is not None
            tail = backend.tail
            await until(lambda: GONE not in tail.positions, what="it follows the pool no more")
            pool = await stage.pool(GONE)
            await until(lambda: GONE in tail.positions, what="it follows the pool again")
            read: list[int] = []

            def listen(log: str, entries: Sequence[Entry]) -> None:
                read.extend(int(fields[5]) for _, fields in entries if log == GONE)

            tail._listeners = [*tail._listeners, listen]
            late = Tail(
                stage.log, Reader(redis_url), stage.catalogue, (listen,), tail._event_range,
                open_catalogue=stage.catalogue.start, on_stopped=lambda: None,
                on_removed=lambda _: None, awaited=lambda: True, requested=asyncio.Event(),
            )  # fmt: skip
            await late.start(timeout_seconds=5)
            await use(stage, pool)
            await until(lambda: len(read) >= 2 * USED, what="both have read all")
            await late.stop()
            assert sorted(read) == sorted([*range(USED + 1, 2 * USED + 1)] * 2)


async def test_a_pool_whose_log_is_yet_to_be_continued_is_not_lost(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stage(redis_url, views_url) as stage, removing(stage):
        await use(stage, await stage.pool(GONE))
        await stage.settle()
        await delete(stage)
        await removed(stage, b"retired:gone")
        audited = asyncio.Event()
        with monkeypatch.context() as patch:

            async def later(*_: object) -> None: ...

            async def counted(*arguments: Any, **options: Any) -> dict[str, str]:
                found = await statuses(*arguments, **options)
                if GONE in arguments[2]:
                    audited.set()
                return found

            patch.setattr(Log, "initialise", later)
            patch.setattr(active, "statuses", counted)
            await stage.pool(GONE)
            await asyncio.wait_for(audited.wait(), 10)
            assert (await stage.log.head(GONE)).halted == ""
        await stage.log.initialise(GONE)
        await stage.settle()
        assert await stage.all_ok()
