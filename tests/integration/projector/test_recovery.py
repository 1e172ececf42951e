"""Logs that Redis lost: found, closed, rebuilt from the archive, and what was lost named."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from eventstore.connection.clients import connect
from eventstore.errors import Halted, LogMissing, LogUnreachable, Recovered
from eventstore.keys import CATALOGUE, Keys
from eventstore.language.agent_commands import Terminate
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.log.replies import LogHead, Outcome
from eventstore.recovery.loss_reports import AGENT_HELD, LossReport, read_reports, write_reports
from eventstore.recovery.restore import LogRestore
from eventstore.retention import Retention
from projector.intake.source import Source
from projector.queries.views import is_lost
from projector.recovery import recovery
from projector.recovery.recovery import (
    ATTEMPTS,
    Recovery,
    RecoveryFenced,
    RecoveryInterrupted,
    RecoveryOptions,
    examine,
    recover,
)
from projector.recovery.rewrite import RecoveredLog
from projector.verify.verification import verify
from tests.chaos.judge import judge
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.pools import ORIGIN, TestPool, raw_events, types
from tests.waiting import until
from tests.worker_pool import POOL as WORKED
from tests.worker_pool import worker_pool
from workers.api.agent import Agent

EVENTS = f"pool:{{{POOL}}}:events"
META = f"pool:{{{POOL}}}:meta"
QUICK: Any = {"lease_seconds": 1.0, "renew_seconds": 0.3}


def options(stage: Stage) -> RecoveryOptions:
    return RecoveryOptions(
        redis_url=stage.redis_url, database_url=stage.database_url, lease_seconds=1.0
    )


async def recovered(stage: Stage) -> dict[str, RecoveredLog]:
    """Recover what is damaged; answers what was done, by pool."""
    done = await recover(options(stage), lambda _: None)
    return {one.pool: one for one in done}


async def demand_equal(stage: Stage) -> None:
    """Views, archive, Redis' hashes and sets all say what the log says."""
    async with stage.projecting():
        await stage.settle()
    found = await verify(stage.redis_url, "", stage.database_url)
    assert found.differences == []


@asynccontextmanager
async def archived_story(redis_url: str, database_url: str) -> AsyncIterator[tuple[Stage, Any]]:
    """A stage on which a story was played and archived; its catalogue, log and pool."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool(**QUICK)
        await stage.play(pool)
        async with stage.projecting():
            await stage.settle()
        yield stage, pool


def wiped(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushall()


@pytest.fixture
def views_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'views.db'}"


@pytest.fixture(autouse=True)
def _no_wait(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker's lease is waited out but where the test is about that."""
    if "lapsed" not in request.node.name:

        async def at_once(_: Recovery) -> None:
            pass

        monkeypatch.setattr(Recovery, "_wait_for_leases", at_once)


async def test_an_emptied_redis_is_recovered_from_the_archive(
    redis_url: str, database_url: str
) -> None:
    async with archived_story(redis_url, database_url) as (stage, pool):
        live = set(await stage.log.live(POOL))
        before = raw_events(redis_url)
        wiped(redis_url)
        with pytest.raises(LogMissing):
            await pool.spawn()
        done = await recovered(stage)
        assert set(done) == {CATALOGUE, POOL}
        assert (done[POOL].generation, done[POOL].seq) == (2, len(before))
        assert (done[POOL].agents, done[POOL].unsaved) == (len(live), ())
        events = raw_events(redis_url)
        assert events[: len(before)] == before, "what was archived is back unchanged"
        assert events[len(before)]["type"] == "log.recovered"
        assert [int(event["seq"]) for event in events] == list(range(1, len(events) + 1))
        assert set(await stage.log.live(POOL)) == live
        with pytest.raises(Recovered):
            await stage.log.survey(POOL)
        assert (await pool.spawn()).outcome is Outcome.DONE
        await demand_equal(stage)


async def test_a_log_ahead_of_the_clock_continues_after_what_it_lost(
    redis_url: str, views_url: str
) -> None:
    """Readers that saw what was lost go on from its ids, and would pass over what comes next."""
    async with archived_story(redis_url, views_url) as (stage, pool):
        with redis.Redis.from_url(redis_url) as client:
            ahead = int(client.time()[0] * 1000) + 86_400_000
            client.hset(META, "ts", ahead)
            await pool.spawn()
            async with stage.projecting():
                await stage.settle()
            await pool.spawn()
            [(lost, _)] = client.xrevrange(EVENTS, count=1)
            client.flushall()
            await recovered(stage)
            [(first, fields)] = client.xrange(EVENTS, min=b"(" + lost, count=1)
            assert fields[b"type"] == b"log.recovered"
            assert int(first.split(b"-")[0]) - ahead < 120_000, "nor much later than that"


async def test_a_trimmed_log_is_recovered_completely_and_trimmed_again(
    redis_url: str, database_url: str
) -> None:
    """Most of it was only in the archive when Redis was lost; and it is again afterwards."""
    one = {"retention": Retention(events=1, age_ms=10**14), "trim_seconds": 0.05}
    async with archived_story(redis_url, database_url) as (stage, _):
        before = raw_events(redis_url)
        live = set(await stage.log.live(POOL))
        async with stage.projecting(**one):
            await until(lambda: len(raw_events(redis_url)) == 1)
        wiped(redis_url)
        done = await recovered(stage)
        assert (done[POOL].seq, done[POOL].unsaved) == (len(before), ())
        assert set(await stage.log.live(POOL)) == live
        assert raw_events(redis_url)[: len(before)] == before
        await demand_equal(stage)
        async with stage.projecting(**one):
            await until(lambda: len(raw_events(redis_url)) == 1)
            rows = await stage.views.archived(POOL, "0")
            assert [row.seq for row in rows] == list(range(1, rows[-1].seq + 1))
            assert {row.generation for row in rows} == {1, 2}
        await demand_equal(stage)


async def test_what_ran_runs_again_as_the_next_incarnation(redis_url: str, views_url: str) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool(**QUICK)
        fence = await pool.worker("w")
        runs, ends = await stage.started(pool, fence, 2)
        await stage.act(pool, ends, Terminate())
        waits = (await pool.spawn()).agent_id
        async with stage.projecting():
            await stage.settle()
        wiped(redis_url)
        done = (await recovered(stage))[POOL]
        assert (done.workers, done.agents, done.restarted) == (1, 3, 2)
        stage.log.raise_high_water_mark(POOL, 2, 0)
        again = await stage.log.agent(POOL, runs)
        assert again is not None
        assert (again.status.value, again.incarnation) == ("pending", 2)
        assert again.losses == (), "no agent is suspected for what happened to all"
        ended = await stage.log.agent(POOL, ends)
        assert ended is not None
        assert ended.status.value == "terminated"
        second = await pool.worker("v")
        claims = await pool.claim(second)
        assert {claimed.agent.agent_id for claimed in claims} == {runs, waits}
        assert all(b"core" in claimed.spec for claimed in claims if claimed.agent.agent_id == runs)
        assert int(raw_events(redis_url)[-1]["epoch"]) > fence.epoch + 1000
        await demand_equal(stage)


async def test_agents_of_a_worker_that_was_being_cleared_are_lost_under_its_fence(
    redis_url: str, views_url: str
) -> None:
    """Its reaper had only fenced it; an event names the fence that it follows."""
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool(**QUICK)
        [held] = await stage.started(pool, await pool.worker("w"), 1)
        fence = await pool.fence("w")
        async with stage.projecting():
            await stage.settle()
        wiped(redis_url)
        await recovered(stage)
        [lost] = [e for e in raw_events(redis_url) if e["type"] == "agent.lost"]
        assert (lost["subject"], lost["epoch"]) == (held, str(fence.epoch))
        assert judge(redis_url, views=stage.database_url) == []
        await demand_equal(stage)


async def test_a_worker_of_before_is_refused_for_good(redis_url: str, views_url: str) -> None:
    async with open_stage(redis_url, views_url) as stage:
        await stage.pool(**QUICK)
        client = connect(redis_url)
        theirs = TestPool(Log(client, Keys(), survives_recovery=False), POOL)
        fence = await theirs.worker("w")
        (agent_id,) = await stage.started(theirs, fence, 1)
        async with stage.projecting():
            await stage.settle()
        wiped(redis_url)
        await recovered(stage)
        for _ in range(2):
            with pytest.raises(Recovered):
                await theirs.claim(fence)
            with pytest.raises(Recovered):
                await theirs.log.act(POOL, agent_id, Terminate(), ORIGIN, fence=fence)
        await client.aclose()
        ours = await Log(stage.log.client, Keys()).claim(POOL, fence, 1)
        assert ours[0] is Outcome.FENCED


async def test_writes_that_only_redis_had_are_named(redis_url: str, views_url: str) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        archived = await stage.head(POOL)
        lost = await pool.spawn()
        report = LossReport(reporter="gateway:g", kind="spawn", agent_id=lost.agent_id,
                      generation=1, seq=lost.seq, ts=stage.log.now_ms(POOL))  # fmt: skip
        saved = LossReport(
            reporter="gateway:g", kind="spawn", agent_id="x", generation=1, seq=archived
        )
        ghost = LossReport(reporter="worker:w", kind=AGENT_HELD, agent_id="ghost", incarnation=1,
                       generation=1, seq=2)  # fmt: skip
        (known, *_) = await stage.log.live(POOL)
        runs = LossReport(reporter="worker:w", kind=AGENT_HELD, agent_id=known, incarnation=1,
                      generation=1, seq=archived + 1)  # fmt: skip
        wiped(redis_url)
        await write_reports(stage.log, POOL, [report, saved, ghost, runs, report])
        done = (await recovered(stage))[POOL]
        named = [(one.kind, one.agent_id, one.seq) for one in done.unsaved]
        assert named == [(AGENT_HELD, "ghost", 2), ("spawn", lost.agent_id, archived + 1)]
        assert done.known_seq == archived + 1
        (first,) = [e for e in raw_events(redis_url) if e["type"] == "log.recovered"]
        assert f'"known_seq":{archived + 1}' in first["data"]
        assert await stage.log.agent(POOL, lost.agent_id) is None
        await demand_equal(stage)


async def test_an_agent_that_only_its_worker_knows_of_is_named(
    redis_url: str, views_url: str, tmp_path: Path
) -> None:
    """No gateway says that it was asked for: the worker that runs it says that it holds it."""
    async with (
        open_stage(redis_url, views_url) as stage,
        worker_pool(redis_url, tmp_path) as pool,
    ):
        await stage.pool(WORKED, **QUICK)
        await pool.worker(Agent)
        archived = await pool.reached(await pool.spawn(), "running")
        async with stage.projecting():
            await stage.settle()
        head = await stage.head(WORKED)
        lost = await pool.reached(await pool.spawn(), "running")
        wiped(redis_url)

        async def reported() -> list[LossReport]:
            found = await read_reports(stage.log, WORKED)
            return found if len(found) == 2 else []

        reports: list[LossReport] = await until(reported)
        assert [(one.reporter, one.kind) for one in reports] == [("worker:w1", AGENT_HELD)] * 2
        assert [(one.agent_id, one.incarnation, one.generation, one.seq) for one in reports] == [
            (held.agent_id, 1, 1, held.claim_seq) for held in (archived, lost)
        ]
        done = (await recovered(stage))[WORKED]
        [named] = done.unsaved
        assert (named.kind, named.agent_id, named.reporter) == (
            AGENT_HELD,
            lost.agent_id,
            "worker:w1",
        )
        assert (done.seq, done.known_seq) == (head, lost.claim_seq)
        assert named.seq == lost.claim_seq == head + 2, "above its spawn, which is lost too"


async def test_an_older_redis_is_closed_and_recovered(redis_url: str, views_url: str) -> None:
    """The append-only file of an hour ago: all of it is intact, only not the newest."""
    async with archived_story(redis_url, views_url) as (stage, pool):
        with redis.Redis.from_url(redis_url) as client:
            dumps = {key: client.dump(key) for key in client.keys("*")}
            new = await pool.spawn()
            async with stage.projecting():
                await stage.settle()
            client.flushall()
            for key, dump in dumps.items():
                client.restore(key, 0, dump)
        with pytest.raises(Exception, match="Redis lost writes"):
            await pool.spawn()
        with pytest.raises(Halted):  # also for who knows of nothing
            await TestPool(Log(stage.log.client, Keys()), POOL).spawn()
        assert list(await examine(options(stage))) == [POOL]
        done = await recovered(stage)
        assert set(done) == {POOL}, "the catalogue was intact"
        assert await stage.log.agent(POOL, new.agent_id) is not None, "the archive had it"
        await demand_equal(stage)


async def test_events_written_on_an_older_log_are_void_and_named(
    redis_url: str, database_url: str
) -> None:
    """A process that knew nothing of it wrote to the older log before it was noticed."""
    async with archived_story(redis_url, database_url) as (stage, pool):
        with redis.Redis.from_url(redis_url) as client:
            dumps = {key: client.dump(key) for key in client.keys("*")}
            await pool.spawn()
            async with stage.projecting():
                await stage.settle()
            client.flushall()
            for key, dump in dumps.items():
                client.restore(key, 0, dump)
        void = [await TestPool(Log(stage.log.client, Keys()), POOL).spawn() for _ in range(3)]
        done = (await recovered(stage))[POOL]
        assert [(one.kind, one.agent_id) for one in done.unsaved] == [
            ("agent.requested", spawned.agent_id) for spawned in void
        ]
        for spawned in void:
            assert await Log(stage.log.client, Keys()).agent(POOL, spawned.agent_id) is None
        await demand_equal(stage)


async def test_what_a_halted_log_has_above_the_archive_is_saved(
    redis_url: str, views_url: str
) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        unarchived = await pool.spawn()
        stage.log.raise_high_water_mark(POOL, 1, 10_000)
        with pytest.raises(Exception, match="Redis lost writes"):
            await pool.spawn()
        done = (await recovered(stage))[POOL]
        assert done.seq == unarchived.seq
        assert await Log(stage.log.client, Keys()).agent(POOL, unarchived.agent_id) is not None
        await demand_equal(stage)


async def test_a_client_that_repeats_its_request_is_answered_as_before(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool(**QUICK)
        first = await pool.spawn(key="key:k", digest="d")
        async with stage.projecting():
            await stage.settle()
        wiped(redis_url)
        await recovered(stage)
        again = await pool.spawn(key="key:k", digest="d")
        assert (again.outcome, again.agent_id) == (Outcome.KNOWN, first.agent_id)
        with redis.Redis.from_url(redis_url) as client:
            left = client.pttl(f"pool:{{{POOL}}}:operation:key:k")
            assert 86_000_000 < left <= 86_400_000


async def test_intact_logs_are_not_touched(redis_url: str, views_url: str) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        before = raw_events(redis_url)
        assert await recovered(stage) == {}
        assert raw_events(redis_url) == before
        assert (await pool.spawn()).outcome is Outcome.DONE


async def test_a_pool_whose_log_is_made_while_logs_are_looked_at_is_not_lost(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The views know it from the catalogue, which is written first."""
    heads, initialise = Source.heads, Log.initialise

    async def later(_: Log, _name: str) -> None:
        """Its process is slow."""

    async def made_meanwhile(self: Source, pools: Iterable[str]) -> dict[str, LogHead]:
        answer = await heads(self, pools)
        await initialise(stage.log, "new")
        return answer

    async with archived_story(redis_url, views_url) as (stage, _pool):
        monkeypatch.setattr(Log, "initialise", later)
        await stage.pool("new")
        async with stage.projecting():
            await stage.settle()
        monkeypatch.setattr(Source, "heads", made_meanwhile)
        assert await examine(options(stage)) == {}
        assert (await stage.log.head("new")).generation == 1


async def test_one_pool_is_recovered_while_others_go_on(redis_url: str, views_url: str) -> None:
    async with archived_story(redis_url, views_url) as (stage, _pool):
        other = await stage.pool("other", **QUICK)
        await other.spawn()
        async with stage.projecting():
            await stage.settle()
        with redis.Redis.from_url(redis_url) as client:
            client.delete(EVENTS)
        recovering = asyncio.create_task(recovered(stage))
        while not recovering.done():
            assert (await other.spawn()).outcome is Outcome.DONE
            await asyncio.sleep(0.05)
        assert set(await recovering) == {POOL}
        await demand_equal(stage)
        assert types(redis_url, "other").count("log.recovered") == 0


async def test_no_write_comes_before_every_lease_has_lapsed(redis_url: str, views_url: str) -> None:
    async with archived_story(redis_url, views_url) as (stage, _pool):
        wiped(redis_url)
        loop = asyncio.get_running_loop()
        began = loop.time()
        recovering = asyncio.create_task(recovered(stage))
        while not recovering.done():
            if loop.time() - began < QUICK["lease_seconds"]:
                with pytest.raises((LogMissing, Halted)):
                    await TestPool(Log(stage.log.client, Keys()), POOL).spawn()
            await asyncio.sleep(0.05)
        await recovering
        assert loop.time() - began >= QUICK["lease_seconds"]


async def test_a_projector_ahead_of_a_recovered_catalogue_folds_it_again(
    redis_url: str, views_url: str
) -> None:
    async with archived_story(redis_url, views_url) as (stage, _):
        reader = Reader(redis_url)
        follower = CatalogueLog(Log(stage.log.client, Keys()), reader)
        await stage.pool("unarchived", **QUICK)
        assert set((await follower.start()).live_pools()) == {POOL, "unarchived"}
        wiped(redis_url)
        done = await recovered(stage)
        assert done[CATALOGUE].seq == 1
        assert set((await follower.refresh()).live_pools()) == {POOL}
        assert follower.state.generation == 2
        created = await follower.create_pool("after", "developer", stage_config(), ORIGIN)
        assert created.outcome is Outcome.DONE
        await reader.close()


async def test_what_was_known_stays_in_sight_while_a_recovered_catalogue_is_folded(
    redis_url: str, views_url: str
) -> None:
    """Whoever asks in between must not find a system without pools and hosts."""
    seen: list[set[str]] = []

    class Watched(Reader):
        async def range(self, *arguments: Any, **options: Any) -> Any:
            seen.append(set(follower.state.live_pools()))
            return await super().range(*arguments, **options)

    async with archived_story(redis_url, views_url) as (stage, _):
        reader = Watched(redis_url)
        follower = CatalogueLog(Log(stage.log.client, Keys()), reader)
        await stage.pool("unarchived", **QUICK)
        await follower.start()
        wiped(redis_url)
        await recovered(stage)
        seen.clear()
        assert set((await follower.refresh()).live_pools()) == {POOL}
        assert all(POOL in pools for pools in seen)
        await reader.close()


def stage_config() -> Any:
    from eventstore.language.pool_config import PoolConfig

    return PoolConfig(**QUICK)


async def test_a_pool_that_was_never_archived_starts_as_a_later_generation(
    redis_url: str, views_url: str
) -> None:
    async with archived_story(redis_url, views_url) as (stage, _):
        new = await stage.pool("new", **QUICK)
        async with stage.projecting():
            await stage.settle(CATALOGUE)
        lost = await new.spawn()
        wiped(redis_url)
        done = await recovered(stage)
        assert (done["new"].generation, done["new"].seq) == (2, 0)
        assert (await new.spawn()).outcome is Outcome.DONE
        assert await stage.log.agent("new", lost.agent_id) is None
        await demand_equal(stage)


async def test_such_a_pool_starts_above_the_generation_of_its_log(
    redis_url: str, views_url: str
) -> None:
    """That was the catalogue's. Who knew it would take an older one for a log rolled back."""
    async with archived_story(redis_url, views_url) as (stage, _):
        for generation in (2, 3):
            wiped(redis_url)
            assert (await recovered(stage))[CATALOGUE].generation == generation
            stage.log.raise_high_water_mark(CATALOGUE, generation, 0)
            await demand_equal(stage)
        await stage.catalogue.refresh()
        new = await stage.pool("new", **QUICK)
        async with stage.projecting():
            await stage.settle(CATALOGUE)
        await new.spawn()
        assert stage.log.high_water_mark("new") == (3, 1)
        wiped(redis_url)
        assert (await recovered(stage))["new"].generation == 4
        assert (await new.spawn()).outcome is Outcome.DONE
        await demand_equal(stage)


async def test_a_recovery_that_was_lost_again_is_not_repeated_under_its_generation(
    redis_url: str, views_url: str
) -> None:
    """Redis came back without a recovery that was done: only what ran in it knows of it."""
    async with archived_story(redis_url, views_url) as (stage, _):
        held = LossReport(reporter="worker:w", kind=AGENT_HELD, agent_id="a", generation=2, seq=60)
        wiped(redis_url)
        await write_reports(stage.log, POOL, [held])
        assert (await recovered(stage))[POOL].generation == 3
        await demand_equal(stage)


async def test_a_pool_that_was_lost_with_the_catalogue_may_be_created_again(
    redis_url: str, views_url: str
) -> None:
    """Whoever knew its first log takes the second for a later one, and not for one rolled back."""
    async with archived_story(redis_url, views_url) as (stage, _):
        new = await stage.pool("new", **QUICK)
        lost = [await new.spawn() for _ in range(3)]
        wiped(redis_url)
        assert "new" not in await recovered(stage)
        stage.log.raise_high_water_mark(CATALOGUE, 2, 0)
        await stage.catalogue.refresh()
        assert (await (await stage.pool("new", **QUICK)).spawn()).outcome is Outcome.DONE
        assert await stage.log.agent("new", lost[0].agent_id) is None
        await demand_equal(stage)


async def test_a_second_loss_is_recovered_like_the_first(redis_url: str, views_url: str) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        for generation in (2, 3):
            wiped(redis_url)
            assert (await recovered(stage))[POOL].generation == generation
            stage.log.raise_high_water_mark(POOL, generation, 0)
            assert (await pool.spawn()).outcome is Outcome.DONE
            await demand_equal(stage)


INTERRUPTIONS = (
    "halt",
    "wipe",
    "start",
    "refill",
    "record",
    "mark_workers_lost",
    "restore_agents",
    "open",
)


@pytest.mark.parametrize("before", INTERRUPTIONS)
async def test_an_interrupted_recovery_leaves_the_log_closed_and_is_done_again(
    redis_url: str, views_url: str, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        await stage.started(pool, await pool.worker("w"), 3)
        async with stage.projecting():
            await stage.settle()
        live = set(await stage.log.live(POOL))
        wiped(redis_url)

        class Killed(BaseException):
            pass

        async def die(*_: object, **__: object) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(LogRestore, before, die)
            with pytest.raises(Killed):
                await recovered(stage)
        with pytest.raises((LogMissing, Halted)):
            await TestPool(Log(stage.log.client, Keys()), POOL).spawn()
        # A projector that is active in between may archive what the first attempt wrote.
        async with stage.projecting() as projector:
            await until(lambda: projector.phase.value == "active")
        await recovered(stage)
        log = Log(stage.log.client, Keys())
        assert set(await log.live(POOL)) == live
        await demand_equal(stage)


@pytest.mark.parametrize("failures", [1, ATTEMPTS])
async def test_a_recovery_that_redis_refuses_for_a_while_starts_again(
    redis_url: str, views_url: str, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One log is open by then, and is answered too: nothing else reports what of it was lost."""
    opened, left = LogRestore.open, failures

    async def open_later(self: LogRestore, generation: int) -> None:
        nonlocal left
        if self._pool != CATALOGUE and left:
            left -= 1
            raise LogUnreachable("Redis is not ready: BUSY")
        await opened(self, generation)

    monkeypatch.setattr(recovery, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(LogRestore, "open", open_later)
    async with archived_story(redis_url, views_url) as (stage, _):
        wiped(redis_url)
        if failures == ATTEMPTS:
            with pytest.raises(
                RecoveryInterrupted, match=r"BUSY; .* until `muster recover` is run again"
            ):
                await recovered(stage)
        assert POOL in (done := await recovered(stage))
        assert (CATALOGUE in done) == (failures < ATTEMPTS)
        spawned = await TestPool(Log(stage.log.client, Keys()), POOL).spawn()
        assert spawned.outcome is Outcome.DONE


async def test_an_active_projector_recovers_by_itself_with_auto_recover(
    redis_url: str, views_url: str
) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        retention = Retention(ended_ms=30_000)
        async with stage.projecting(auto_recover=True, audit_seconds=0.1, retention=retention):
            wiped(redis_url)
            outcome: Callable[[], Any] = lambda: accepted(pool)  # noqa: E731
            assert await until(outcome, timeout=20)
            await stage.settle()
        with redis.Redis.from_url(redis_url) as client:
            assert 0 < client.pttl(f"process:{{{POOL}}}:w2") <= 30_000
        await demand_equal(stage)


async def test_entries_that_a_projector_had_read_before_it_recovered_a_log_are_applied_once(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the log halted with entries at hand, which the recovery takes in."""
    wait = Source.wait

    async def until_halted(self: Source, *args: Any, **kwargs: Any) -> Any:
        entries = await wait(self, *args, **kwargs)
        if POOL in entries:
            monkeypatch.setattr(Source, "wait", wait)
            with redis.Redis.from_url(redis_url) as client:
                client.hset(META, "halted", "by a process that knew of more")
            await asyncio.sleep(0.01)  # it is time to check the logs again
        return entries

    async with archived_story(redis_url, views_url) as (stage, pool):
        monkeypatch.setattr(Source, "wait", until_halted)
        async with stage.projecting(auto_recover=True, audit_seconds=0.001):
            await pool.spawn()
            await until(lambda: "log.recovered" in types(redis_url))
            await until(lambda: accepted(pool))
            await stage.settle()
            assert {at.status for at in (await stage.views.positions()).values()} == {"ok"}
        await demand_equal(stage)


@pytest.mark.parametrize("by_itself", [False, True])
async def test_a_rewritten_log_is_halted_by_the_projector_that_notices(
    redis_url: str, views_url: str, *, by_itself: bool
) -> None:
    """It has grown past what anybody acknowledged: no floor is above it, only the views know."""
    async with archived_story(redis_url, views_url) as (stage, pool):
        with redis.Redis.from_url(redis_url) as client:
            async with stage.projecting(auto_recover=by_itself, audit_seconds=5.0):
                dumps = {key: client.dump(key) for key in client.keys("*")}
                await pool.spawn()
                await stage.settle()
                with client.pipeline() as pipeline:
                    pipeline.flushall()
                    for key, dump in dumps.items():
                        pipeline.restore(key, 0, dump)
                    pipeline.execute()
                unaware = TestPool(Log(stage.log.client, Keys()), POOL)
                void = [(await unaware.spawn()).agent_id for _ in range(3)]
                if by_itself:
                    await until(lambda: "log.recovered" in types(redis_url), timeout=20)
                    await until(lambda: accepted(TestPool(Log(stage.log.client, Keys()), POOL)))
                    await stage.settle()
                else:
                    await until(lambda: client.hexists(META, "halted"), timeout=20)
                    with pytest.raises(Halted, match=r"rewritten|rolled back"):
                        await unaware.spawn()

                    async def said() -> bool:
                        return is_lost((await stage.views.positions())[POOL].status)

                    await until(said, timeout=10)
                    assert len((await recovered(stage))[POOL].unsaved) == len(void)
        await demand_equal(stage)


async def test_streams_that_are_gone_are_noticed_though_their_counters_are_there(
    redis_url: str, views_url: str
) -> None:
    async with archived_story(redis_url, views_url) as (stage, pool):
        async with stage.projecting(auto_recover=True, audit_seconds=0.1):
            with redis.Redis.from_url(redis_url) as client:
                client.delete(f"pool:{{{POOL}}}:commands")
            assert await until(lambda: accepted(pool), timeout=20)
            await stage.settle()
        await demand_equal(stage)


async def test_agents_of_a_deleted_pool_end_where_the_end_of_them_was_lost(
    redis_url: str, views_url: str
) -> None:
    """The deletion is in the catalogue, which is intact; what it did in the pool is lost."""
    async with archived_story(redis_url, views_url) as (stage, pool):
        await stage.started(pool, await pool.worker("w"), 1)
        async with stage.projecting():
            await stage.settle()
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
        await demand_equal(stage)


async def accepted(pool: TestPool) -> bool:
    try:
        return (await pool.spawn()).outcome is Outcome.DONE
    except (LogMissing, Halted, Recovered):
        return False


async def test_a_recovery_that_another_one_overtook_touches_nothing(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one waits for leases; a second one starts meanwhile, and finishes before it."""
    waiting, overtaken = asyncio.Event(), asyncio.Event()

    async def first_one_waits(_: Recovery) -> None:
        if not waiting.is_set():
            waiting.set()
            await overtaken.wait()

    monkeypatch.setattr(Recovery, "_wait_for_leases", first_one_waits)
    async with archived_story(redis_url, views_url) as (stage, pool):
        wiped(redis_url)
        first = asyncio.create_task(recovered(stage))
        await waiting.wait()
        assert (await recovered(stage))[POOL].generation == 2
        stage.log.raise_high_water_mark(POOL, 2, 0)
        accepted = await pool.spawn()
        overtaken.set()
        with pytest.raises(RecoveryFenced):
            await first
        assert await stage.log.agent(POOL, accepted.agent_id) is not None
        assert types(redis_url).count("log.recovered") == 1
        await demand_equal(stage)


async def test_what_is_lost_is_named_also_where_the_first_attempt_was_interrupted(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what only the older log's stream had, which the first attempt has wiped."""
    async with archived_story(redis_url, views_url) as (stage, pool):
        archived = await stage.head(POOL)
        with redis.Redis.from_url(redis_url) as client:
            dumps = {key: client.dump(key) for key in client.keys("*")}
            await pool.spawn()
            async with stage.projecting():
                await stage.settle()
            acknowledged = await pool.spawn()
            client.flushall()
            for key, dump in dumps.items():
                client.restore(key, 0, dump)
        void = await TestPool(Log(stage.log.client, Keys()), POOL).spawn()
        report = LossReport(reporter="gateway:g", kind="spawn", agent_id=acknowledged.agent_id,
                      generation=1, seq=acknowledged.seq, ts=stage.log.now_ms(POOL))  # fmt: skip
        await write_reports(stage.log, POOL, [report])
        with monkeypatch.context() as patch:

            async def die(*_: object) -> None:
                raise InterruptedError

            patch.setattr(LogRestore, "open", die)
            with pytest.raises(InterruptedError):
                await recovered(stage)
        done = (await recovered(stage))[POOL]
        assert {(one.kind, one.agent_id, one.seq) for one in done.unsaved} == {
            ("spawn", acknowledged.agent_id, archived + 2),
            ("agent.requested", void.agent_id, archived + 1),
        }
        await demand_equal(stage)
        wiped(redis_url)
        assert (await recovered(stage))[POOL].unsaved == (), "named once"
