"""The worker processes of a host, and what follows from their ends."""

import os
import signal
import subprocess
from typing import Any, cast

import pytest

from eventstore.language.workers import WorkerStatus
from tests.integration.workers.hosts import POOL, Site
from tests.integration.workers.test_stale_surveys import context_of
from workers.host.processes import Process, start_time, this_process
from workers.launch.launchers import OnEnded
from workers.launch.pool_processes import HostProcesses
from workers.supervisor.pool_supervisor import PoolSupervisor
from workers.supervisor.worker_monitor import WorkerMonitor


class Launcher:
    """Starts nothing; reports what a test wants."""

    pids: frozenset[int] = frozenset()

    async def start(self, ended: OnEnded) -> None:
        self.ended = ended

    async def launch(self, options: object) -> Process:
        return Process(0, 0)

    async def stop(self) -> None:
        pass


async def test_of_two_processes_of_one_order_the_later_one_is_ignored(site: Site) -> None:
    """A supervisor died after the fork, and the next one found the order still open."""
    pool = await site.pool()
    launcher = Launcher()
    local = HostProcesses(cast("Any", launcher), cast("Any", lambda *_: None), lambda _: None)
    await local.start()
    watch = WorkerMonitor(context_of(pool, local=local))
    await pool.order("w")
    await watch.reconcile(await site.survey(), 1.0)
    first = Process(os.getppid(), start_time(os.getppid()))
    await pool.start("w", pid=first.pid, start_time=first.start_time)
    launcher.ended("w", "exited with code 78")
    for now in (2.0, 3.0):
        await watch.reconcile(await site.survey(), now)
    found = await site.log.worker(POOL, "w")
    assert found is not None
    assert found.worker.status is WorkerStatus.ACTIVE
    assert local.running(POOL) == {"w"}
    await local.stop()


async def test_a_leaving_host_starts_no_worker_that_was_just_ordered(
    site: Site,
) -> None:
    """It would continue without a supervisor on a host that has left."""
    pool = await site.pool()
    local = HostProcesses(cast("Any", Launcher()), cast("Any", lambda *_: None), lambda _: None)
    watch = WorkerMonitor(context_of(pool, local=local))
    await pool.order("w")
    watch.drain_reason = "host-shutdown"
    await watch.launch(["w"])
    assert local.count == 0


async def test_a_host_that_leaves_resigns_before_its_workers_have_ended(
    site: Site,
) -> None:
    """Their released agents may need a worker elsewhere, and only a leader orders one."""
    pool = await site.pool(lease_seconds=600.0)
    local = HostProcesses(cast("Any", Launcher()), cast("Any", lambda *_: None), lambda _: None)
    first, second = (PoolSupervisor(context_of(pool, host, local)) for host in "ab")
    await first.reconcile()
    await second.reconcile()
    first.drain("host-shutdown")
    await first.reconcile()
    await second.reconcile()
    _, lead = await site.log.lead(POOL, "who asks", 0)
    assert lead.host == "b"


async def test_the_end_of_the_process_that_is_the_worker_is_the_workers(site: Site) -> None:
    pool = await site.pool()
    launcher = Launcher()
    local = HostProcesses(cast("Any", launcher), cast("Any", lambda *_: None), lambda _: None)
    await local.start()
    watch = WorkerMonitor(context_of(pool, local=local))
    await pool.order("w")
    await watch.reconcile(await site.survey(), 1.0)
    await pool.start("w", pid=2**22, start_time=1)
    launcher.ended("w", "killed by signal 9")
    await watch.reconcile(await site.survey(), 2.0)
    found = await site.log.worker(POOL, "w")
    assert found is not None
    assert (found.worker.status, found.worker.reason) == (WorkerStatus.LOST, "killed by signal 9")


async def test_a_launch_with_an_unknown_error_leaves_no_worker(site: Site) -> None:
    """A host that waits for a worker that never existed would never finish leaving."""
    pool = await site.pool()

    def defect(*_: Any) -> Any:
        raise ZeroDivisionError

    local = HostProcesses(cast("Any", Launcher()), defect, lambda _: None)
    await local.start()
    with pytest.raises(ZeroDivisionError):
        await local.launch(pool.pool, "w")
    assert local.count == 0
    assert local.exit_reason("w") == "its launch failed: ZeroDivisionError()"
    await local.stop()


async def test_a_single_process_lets_workers_with_a_process_of_their_own_live(site: Site) -> None:
    """A supervisor was killed, and its host runs as a single process: its workers continue."""
    pool = await site.pool()
    local = HostProcesses(cast("Any", Launcher()), cast("Any", lambda *_: None), lambda _: None)
    watch = WorkerMonitor(context_of(pool, local=local))
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            ours = this_process()
            await pool.order("theirs")
            await pool.start("theirs", pid=other.pid, start_time=start_time(other.pid))
            await pool.order("ours")
            await pool.start("ours", pid=ours.pid, start_time=ours.start_time)
            await watch.reconcile(await site.survey(), 1.0)
            found = {o.worker.worker_id: o.worker.status for o in (await site.survey()).workers}
            assert found == {"theirs": WorkerStatus.ACTIVE}
            assert local.running(POOL) == {"theirs"}
            local.signal_all(signal.SIGTERM)
            assert other.wait(5) == -signal.SIGTERM
        finally:
            await local.stop()
            other.kill()
