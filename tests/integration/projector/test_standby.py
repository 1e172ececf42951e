"""Exactly one projector is active, also when one dies, stops or continues late."""

import os
import signal
import time

import psutil
import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from projector.rebuild.view_sets import RebuildInProgress, acquire_rebuild_lease
from projector.service.active import Active
from projector.service.projector import Phase, Projector
from projector.store.database import Database
from projector.store.lease import Lease, LeaseState, Superseded
from projector.verify.verification import verify
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
    """Its loops continue, as after a pause that it did not notice."""
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
    """A rebuild proves its own lease and the projector's in each transaction."""
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
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    """All processes of a host may be stopped, and the first that wakes must not acquire it before
    it is released. A slow check proves nothing either: it may have been renewed meanwhile.
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

    async with open_stage(redis_url, views_url) as stage:
        holder = await steal(stage)
        heir = Lease(holder.database, seconds=0.4)
        monkeypatch.setattr(Lease, "_read_state", held_up)
        await heir.acquire()
        assert checks == late + 1
        await holder.database.close()


async def test_a_standby_that_was_itself_stopped_follows_a_dead_one(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts only the time in which it could have observed a renewal."""
    read_state, late = Lease._read_state, [True]

    async def held_up(self: Lease) -> LeaseState:
        if late and late.pop():
            time.sleep(2 * self.seconds)
        return await read_state(self)

    async with open_stage(redis_url, views_url) as stage:
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


async def test_a_lease_is_renewed_on_after_a_renewal_that_failed(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recovery that waits for leases writes nothing else meanwhile."""
    renewals, renew = 0, Lease.renew

    async def fail_once(self: Lease) -> None:
        nonlocal renewals
        renewals += 1
        if renewals == 1:
            raise OperationalError("UPDATE", None, Exception("database is locked"))
        await renew(self)

    async with open_stage(redis_url, views_url) as stage:
        lease = await steal(stage)
        lease.seconds = 0.04
        monkeypatch.setattr(Lease, "renew", fail_once)
        async with lease.keep_renewed():
            await until(lambda: renewals > 2)
        await lease.database.close()


async def test_a_projector_continues_after_a_defect(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
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
    async with open_stage(redis_url, views_url) as stage, stage.projecting() as projector:
        await stage.pool()
        await stage.settle()
        assert not failing
        assert projector.phase is Phase.ACTIVE


async def test_a_checkpoint_that_moved_is_not_overwritten(
    redis_url: str, database_url: str
) -> None:
    """The second guard: even under the lease, another's position is not overwritten."""
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
    redis_url: str, postgres_url: str
) -> None:
    """On PostgreSQL: where it is stopped within a transaction, the lock does not stay."""
    async with open_stage(redis_url, postgres_url) as stage:
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
    """PostgreSQL ends the transaction of a silent process, and so its lock of the lease.

    When the process continues, another one has the lease.
    """
    async with open_stage(redis_url, postgres_url) as stage:
        pool = await stage.pool()
        await pool.spawn()
        ours = stage.projector(lease_seconds=2.0)  # PostgreSQL ends the transaction later
        with projector_process(stage, lease_seconds=2.0, stops_itself=True) as other:
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
    started = time.monotonic()
    await until(lambda: projector.phase is Phase.ACTIVE, timeout=seconds)
    assert time.monotonic() - started < seconds


async def steal(stage: Stage) -> Lease:
    database = Database(stage.database_url)
    database.open()
    thief = Lease(database)
    await thief.seize()
    return thief
