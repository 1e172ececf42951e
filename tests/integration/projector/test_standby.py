"""Exactly one projector is active, whoever dies, stops or comes back late."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import psutil
import pytest
from sqlalchemy import Connection, make_url

from projector.rebuild.view_sets import RebuildInProgress, acquire_rebuild_lease
from projector.service.active import Active
from projector.service.projector import Phase, Projector
from projector.store.lease import Lease, LeaseState, Superseded
from projector.verify.verification import verify
from tests.chaos.proxy import Link, Weather
from tests.integration.projector.processes import projector_process
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.waiting import until


async def test_a_standby_projector_takes_over_when_the_active_one_stops(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        second = stage.projector(name="second", lease_seconds=30.0)
        async with stage.projecting(name="first", lease_seconds=30.0):
            await second.start()
            await until(lambda: second.phase is Phase.STANDBY)
            for _ in range(5):
                await pool.spawn()
                await stage.settle()
            assert second.phase == "standby"
        try:
            await until(lambda: second.phase is Phase.ACTIVE)
            await pool.spawn()
            await stage.settle()
        finally:
            await second.stop()
        seqs = [row.seq for row in await stage.views.events(POOL)]
        assert seqs == list(range(1, 7))


async def test_a_projector_that_lost_its_lease_commits_nothing_and_becomes_a_standby(
    redis_url: str, database_url: str
) -> None:
    """Its loops go on as if nothing had happened: as after a pause it did not notice."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting(lease_seconds=30.0) as projector:
            await pool.spawn()
            await stage.settle()
            thief = await steal(stage)
            before = await stage.contents()
            await pool.spawn()
            await until(lambda: projector.phase is Phase.STANDBY)
            assert await stage.contents() == before
            assert len(await stage.views.events(POOL)) == 1
            await thief.release()
            await thief.database.close()
            await until(lambda: projector.phase is Phase.ACTIVE)
            await stage.settle()


async def test_nothing_is_written_once_one_of_two_leases_is_lost(
    redis_url: str, database_url: str
) -> None:
    """Whichever it is: a rebuild proves its own lease and the projector's in each transaction."""
    async with open_stage(redis_url, database_url) as stage:
        projector = await steal(stage)
        rebuild = Lease(projector.database, "rebuild")
        await rebuild.acquire()
        ran: list[Connection] = []
        await rebuild.write(ran.append, also=projector)
        assert len(ran) == 1
        for lost in (projector, rebuild):
            await Lease(projector.database, lost.name).seize()
            with pytest.raises(Superseded, match=lost.name):
                await lost.write(ran.append)
            with pytest.raises(Superseded):
                await rebuild.write(ran.append, also=projector)
        assert len(ran) == 1
        await projector.database.close()


@pytest.mark.parametrize("late", [1, 2], ids=["at the first check", "later"])
async def test_a_lease_does_not_expire_while_its_watcher_is_stopped(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    """All processes of a host may, and whoever wakes first must not take it: not before it was
    given back here. Nor by a check that took long: it may have been renewed at any time during it.
    """
    checks, read_state = 0, Lease._read_state

    async def held_up(self: Lease) -> LeaseState:
        nonlocal checks
        checks += 1
        if checks == late:
            time.sleep(2 * self.seconds)
        elif checks > late:
            await holder.release()
        return await read_state(self)

    async with open_stage(redis_url, database_url) as stage:
        holder = await steal(stage)
        heir = Lease(holder.database, seconds=0.4)
        monkeypatch.setattr(Lease, "_read_state", held_up)
        await heir.acquire()
        assert checks == late + 1
        await holder.database.close()


async def test_a_standby_that_was_stopped_itself_follows_a_dead_one(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up only after so much watching, in which it would have seen that it is alive."""
    read_state, late = Lease._read_state, [True]

    async def held_up(self: Lease) -> LeaseState:
        if late and late.pop():
            time.sleep(2 * self.seconds)
        return await read_state(self)

    async with open_stage(redis_url, database_url) as stage:
        dead = await steal(stage)
        heir = Lease(dead.database, "projector", seconds=0.4)
        monkeypatch.setattr(Lease, "_read_state", held_up)
        await acquire_rebuild_lease(heir)
        late.append(True)
        third = Lease(dead.database, seconds=0.4)
        async with heir.keep_renewed():
            with pytest.raises(RebuildInProgress):
                await acquire_rebuild_lease(third)
        await dead.database.close()


async def test_a_projector_continues_after_a_defect(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process would seem healthy, and the views would not move."""
    original, failing = Active._round, True

    async def fail_once(self: Active) -> None:
        nonlocal failing
        if failing:
            failing = False
            raise RuntimeError("a defect")
        await original(self)

    monkeypatch.setattr(Active, "_round", fail_once)
    async with open_stage(redis_url, database_url) as stage, stage.projecting() as projector:
        await stage.pool()
        await stage.settle()
        assert not failing
        assert projector.phase is Phase.ACTIVE


async def test_a_checkpoint_that_moved_is_not_overwritten(
    redis_url: str, database_url: str
) -> None:
    """The second guard: even under the lease nothing is written on top of another's position."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting() as projector:
            await pool.spawn()
            await stage.settle()
            await stage.sql("UPDATE {}checkpoints SET seq = 7 WHERE pool <> ''")
            await pool.spawn()
            await until(lambda: projector.phase is not Phase.ACTIVE)
            assert len(await stage.views.events(POOL)) == 1


async def test_a_killed_projector_is_followed_at_once_and_a_stopped_one_soon(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        await pool.spawn()
        ours = stage.projector(lease_seconds=2.0)
        with projector_process(stage) as other:
            await stage.settle()
            await ours.start()
            await until(lambda: ours.phase is Phase.STANDBY)
            os.kill(other.pid, signal.SIGSTOP)
            await active_within(ours, 10.0)
            await pool.spawn()
            os.kill(other.pid, signal.SIGCONT)
            await stage.settle()
            assert ours.phase is Phase.ACTIVE
            await ours.stop()
            await pool.spawn()
            await stage.settle()  # by the other one, which is active again
            heir = stage.projector(lease_seconds=60.0)
            await heir.start()
            await until(lambda: heir.phase is Phase.STANDBY)
            other.end()
            await active_within(heir, 10.0)  # long before the lease ends: the holder is gone
            await heir.stop()
        seqs = [row.seq for row in await stage.views.events(POOL)]
        assert seqs == [1, 2, 3]


async def test_a_projector_that_stops_within_a_transaction_blocks_no_other(
    redis_url: str, postgres_url: str
) -> None:
    """PostgreSQL takes the transaction, and its hold on the lease, from a process that is silent.

    When that one goes on, the transaction is gone, and the lease another's.
    """
    async with open_stage(redis_url, postgres_url) as stage:
        pool = await stage.pool()
        await pool.spawn()
        ours = stage.projector(lease_seconds=4.0)  # PostgreSQL's five seconds are over later
        with projector_process(stage, stops_itself=True) as other:
            await stage.settle()
            await ours.start()
            await until(lambda: ours.phase is Phase.STANDBY)
            await pool.spawn()
            itself = psutil.Process(other.pid)
            await until(lambda: itself.status() == psutil.STATUS_STOPPED)
            await active_within(ours, 20.0)
            await stage.settle()
            os.kill(other.pid, signal.SIGCONT)
            await pool.spawn()
            await stage.settle()
            assert ours.phase is Phase.ACTIVE
            await ours.stop()
        seqs = [row.seq for row in await stage.views.events(POOL)]
        assert seqs == [1, 2, 3]
        assert (await verify(redis_url, "", postgres_url)).equal


async def active_within(projector: Projector, seconds: float) -> None:
    began = time.monotonic()
    await until(lambda: projector.phase is Phase.ACTIVE, timeout=seconds)
    assert time.monotonic() - began < seconds


async def steal(stage: Stage) -> Lease:
    from projector.store.database import Database

    database = Database(stage.database_url)
    database.open()
    thief = Lease(database)
    await thief.seize()
    return thief


@asynccontextmanager
async def distant(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> AsyncIterator[tuple[Link, Projector]]:
    """An active projector, and the link through which it reaches PostgreSQL."""
    monkeypatch.setattr("projector.store.database.CLOSE_SECONDS", 0.1)
    url = make_url(stage.database_url)
    link = Link("views", url.port or 5432, Random(1))
    await link.start()
    far = url.set(host="127.0.0.1", port=link.port).render_as_string(hide_password=False)
    projector = Projector(
        msgspec.structs.replace(stage.projector(**options).options, database_url=far)
    )
    await projector.start()
    try:
        await until(lambda: projector.phase is Phase.ACTIVE)
        yield link, projector
    finally:
        await projector.stop()
        await link.stop()


async def test_a_projector_whose_database_never_answers_connects_again(
    redis_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something in between keeps the connection: the renewal waits behind what was asked before."""
    monkeypatch.setattr("projector.service.active.RENEWAL_TIMEOUT_LEASES", 1)
    async with open_stage(redis_url, postgres_url) as stage:
        pool = await stage.pool()
        async with distant(stage, monkeypatch, lease_seconds=1.0) as (link, projector):
            link.set(Weather(replies_stall=True))
            await pool.spawn()
            await until(lambda: projector.phase is not Phase.ACTIVE)
            link.clear()
            await stage.settle()


async def test_a_projector_whose_database_never_answers_is_stopped_soon(
    redis_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait to release its lease: no other may want it."""
    async with open_stage(redis_url, postgres_url) as stage:
        pool = await stage.pool()
        async with distant(stage, monkeypatch, lease_seconds=1.0) as (link, projector):
            link.set(Weather(replies_stall=True))
            await pool.spawn()
            async with asyncio.timeout(5.0):
                await projector.stop()
