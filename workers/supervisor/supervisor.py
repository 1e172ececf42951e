"""The supervisor: one process per host that starts and stops its workers.

It follows the catalogue and the pools' signals, and runs a `PoolSupervisor` for each pool, which is
woken by signals, by the end of a worker process, and by the clock. Where Redis is unreachable it
waits; the workers go on until their leases lapse.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from msgspec.structs import replace

from eventstore import errors
from eventstore.connection.clients import Client
from eventstore.keys import Keys
from eventstore.language.catalogue import Catalogue, Pool
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.pool_log import PoolLog
from eventstore.log.reader import Reader
from eventstore.steps.step import Origin
from workers.host.lock import LOCK_TIMEOUT_SECONDS, HostLock
from workers.host.processes import host_name
from workers.launch.launchers import ForkLauncher, InProcessLauncher, Launcher
from workers.launch.pool_processes import HostProcesses
from workers.launch.zygote_messages import Plan
from workers.supervisor.code_watch import Reloading
from workers.supervisor.host_reports import HostReports
from workers.supervisor.housekeeping import clean_up_logs, end_leftovers
from workers.supervisor.metrics import SupervisorMetrics
from workers.supervisor.options import SupervisorOptions, limit_to_one_worker, worker_options
from workers.supervisor.pool_supervisor import PoolSupervisor, retry_forever
from workers.supervisor.resting_pools import RestingPools
from workers.supervisor.worker_monitor import PoolContext

log = structlog.get_logger("muster.supervisor")

KILL_SECONDS = 2.0
FINAL_LEAVE_SECONDS = 1.0
"""For a host that ran out of time to record that it left, if Redis is reachable."""
GATHER_SECONDS = 0.05
"""Signals that come so soon after others are followed together."""


class Supervisor:
    """Starts, watches and stops the workers of this host."""

    def __init__(self, options: SupervisorOptions) -> None:
        self._options = options
        self.host = options.host or host_name()
        self._keys = Keys(options.key_prefix)
        self._client = Client(options.redis_url)
        self._events = Log(self._client, self._keys, retention=options.retention)
        self._reader = Reader(options.redis_url)
        self._catalogue = CatalogueLog(self._events, Reader(options.redis_url))
        self._origin = Origin(actor=f"supervisor:{self.host}")
        self._pools: dict[str, PoolSupervisor] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lock = HostLock(self.host, options.redis_url, options.key_prefix)
        if options.metrics:
            options = replace(options, report_to=f"muster-reports-{self._lock.scope}")
        self._worker_ended = asyncio.Event()
        self._processes = HostProcesses(
            self._new_launcher(options.deferred_roles),
            partial(worker_options, options, self.host),
            self._on_worker_ended,
            limits=options.limits,
        )
        if not options.single_process:
            self._processes.new_launcher = partial(self._new_launcher, options.deferred_roles)
        self.metrics: SupervisorMetrics | None = None
        if options.metrics:
            self.metrics = SupervisorMetrics(options.report_to, self._processes, self._pools)
        self._reports = HostReports(
            self.host,
            self._origin,
            self._catalogue,
            self._events,
            self._processes,
            self._hosts_in_use,
        )
        self._resting_pools = RestingPools(self._events, self._pools, options.poll_seconds)
        self._reloading = Reloading(options, self._new_launcher, self._processes, self._wake_all)
        self._joined = False
        self._stopped = False

    async def start(self) -> None:
        """Import the agent classes, join as a host, and supervise all pools.

        Raises `ConfigurationError` when a class cannot be imported or this host has a supervisor.
        """
        await self._lock.acquire(LOCK_TIMEOUT_SECONDS)
        if self.metrics is not None:
            self.metrics.start(self._events)
        if self._options.reload:
            await self._reloading.start()  # before the code is imported
        await self._processes.start()
        try:
            await self._join()
        except (errors.LogMissing, errors.Halted, errors.RolledBack) as error:
            log.warning("supervisor.waits_for_log", reason=str(error))
        self._start_task("following", self._follow)
        self._start_task("removing old logs", partial(clean_up_logs, self._options))
        self._start_task("reporting this host", self._reports.run)
        self._start_task("checking pools at rest", self._resting_pools.run)
        ending = partial(
            end_leftovers, self._lock.scope, self._processes, self._pools, self._worker_ended
        )
        self._start_task("ending leftovers", ending)
        if self._options.reload:
            self._start_task("watching code", self._reloading.run)
        log.info("supervisor.started", host=self.host, pools=len(self._pools))

    async def stop(self) -> None:
        """Drain this host's workers within the shut-down time, then end what is left."""
        if self._stopped:
            return
        self._stopped = True
        async with contextlib.AsyncExitStack() as closing:  # from the last on, whatever fails
            closing.callback(self._lock.release)
            if self.metrics is not None:
                closing.callback(self.metrics.stop)
            closing.push_async_callback(self._client.aclose)
            closing.push_async_callback(self._catalogue.close)
            closing.push_async_callback(self._reader.close)
            closing.push_async_callback(self._processes.stop)
            closing.push_async_callback(self._stop_tasks)
            if self._joined:
                await self._leave()
        log.info("supervisor.stopped", host=self.host)

    async def _join(self) -> None:
        """Offer this host. Raises `LogMissing`, `Halted`, `RolledBack` where the log was lost."""
        await self._catalogue.start()
        await self._join_host()
        self._joined = True
        self._supervise_new_pools()

    async def _join_host(self) -> None:
        await self._catalogue.join_host(self.host, socket.gethostname(), os.getpid(), self._origin)

    def _start_task(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat some work, which returns only by an error."""
        self._tasks[name] = asyncio.create_task(retry_forever(name, work), name=name)

    async def _stop_tasks(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _on_worker_ended(self, pool_name: str) -> None:
        """Wake its pool, and those that wait for room on this host."""
        self._worker_ended.set()
        for name, pool_supervisor in self._pools.items():
            if name == pool_name or not pool_name or pool_supervisor.waits:
                pool_supervisor.wakeup.set()

    def _wake_changed(self, before: Catalogue, now: Catalogue) -> None:
        """The pools whose settings have changed; all of them if hosts came or went."""
        if now.hosts != before.hosts:
            self._wake_all()
        for name, pool_supervisor in self._pools.items():
            if now.pools.get(name) is not before.pools.get(name):
                pool_supervisor.wakeup.set()

    def _wake_all(self) -> None:
        for pool_supervisor in self._pools.values():
            pool_supervisor.wakeup.set()

    def _new_launcher(self, deferred: tuple[str, ...]) -> Launcher:
        options = self._options
        plan = Plan(
            roles=options.roles,
            deferred=deferred,
            app_dir=options.app_dir,
            import_seconds=options.import_timeout_seconds,
            otel=options.otel,
        )
        launcher: type[Launcher] = InProcessLauncher if options.single_process else ForkLauncher
        return launcher(plan, self._lock.scope)

    # ---- following ---------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Wake pool supervisors when the catalogue or signals change. Returns only by an error."""
        positions: dict[str, str] = {}
        known = Catalogue()
        if not self._joined:
            await self._join()
        await self._catalogue.refresh()
        while True:
            self._abandon_removed_pools(positions)
            if self._catalogue.state is not known:
                self._supervise_new_pools()
                await self._rejoin()
                self._wake_changed(known, self._catalogue.state)
                known = self._catalogue.state
            positions[self._keys.catalogue] = known.stream_id
            pools = {self._keys.pool(name, "signals"): pool for name, pool in self._pools.items()}
            for signals in pools.keys() - positions.keys():
                positions[signals] = await self._reader.last_id(signals)
                pools[signals].wakeup.set()
            signalled = await self._reader.read(positions)
            if self._keys.catalogue in signalled:
                await self._catalogue.refresh()
            for stream, entries in signalled.items():
                positions[stream] = entries[-1][0].decode()
                if stream in pools:
                    pools[stream].wakeup.set()
            if signalled.keys() & pools.keys():
                await asyncio.sleep(GATHER_SECONDS)

    def _supervise_new_pools(self) -> None:
        for name, pool in self._catalogue.state.pools.items():
            if name not in self._pools and not self._stopped:
                if not pool.deleted and pool.role_type not in self._options.roles:
                    declared = sorted(self._options.roles)
                    role = pool.role_type
                    log.warning("pool.role_not_declared", pool=name, role=role, declared=declared)
                if earlier := self._catalogue.state.earlier_defaults.get(name):
                    log.warning("pool.earlier_defaults", pool=name, settings=list(earlier))
                context = PoolContext(
                    self.host,
                    PoolLog(self._events, name, self._origin),
                    self._processes,
                    self._catalogue,
                    partial(self._pool, name),
                    self._reports,
                    self._options.poll_seconds,
                    partial(Reader, self._options.redis_url),
                )
                self._pools[name] = PoolSupervisor(context)
                self._start_task(f"pool {name}", self._pools[name].run)

    def _abandon_removed_pools(self, positions: dict[str, str]) -> None:
        """Not where a recovered catalogue lost a pool that has workers."""
        for name in self._pools.keys() - self._catalogue.state.pools:
            if not self._pools[name].monitor.hosts:
                self._pools.pop(name).reconciled.set()
                positions.pop(self._keys.pool(name, "signals"), None)
                self._tasks.pop(f"pool {name}").cancel()

    def _pool(self, name: str) -> Pool:
        """Raises `LogError` where a catalogue was recovered without the pool."""
        if (found := self._catalogue.state.pools.get(name)) is None:
            raise errors.LogError(f"the catalogue does not know pool {name!r} any more")
        return limit_to_one_worker(found) if self._options.single_process else found

    def _hosts_in_use(self) -> set[str]:
        return {host for pool in self._pools.values() for host in pool.monitor.hosts}

    async def _rejoin(self) -> None:
        """Join again where another supervisor has recorded that this host left."""
        host = self._catalogue.state.hosts.get(self.host)
        if host is not None and host.status == "left" and not self._stopped:
            await self._join_host()

    # ---- shutting down -----------------------------------------------------------------------

    async def _leave(self) -> None:
        """Cordon first, so that nothing is started here any more; then drain."""
        reason = "host-shutdown"
        seconds = self._shutdown_seconds()
        deadline = asyncio.get_running_loop().time() + seconds
        for pool_supervisor in self._pools.values():
            pool_supervisor.drain(reason)
        try:
            async with asyncio.timeout(seconds):
                await self._catalogue.cordon_host(self.host, reason, self._origin)
                log.info("host.cordoned", workers=self._processes.count)
                while self._processes.count:
                    for pool_supervisor in self._pools.values():
                        if not pool_supervisor.idle:
                            pool_supervisor.wakeup.set()
                    await asyncio.sleep(0.1)
                await self._resign_and_leave(reason)
        except (TimeoutError, errors.LogError) as error:
            log.warning("supervisor.shutdown_incomplete", error=str(error) or "out of time")
            await self._kill_rest(deadline)
            with contextlib.suppress(TimeoutError, errors.LogError):
                async with asyncio.timeout(FINAL_LEAVE_SECONDS):
                    await self._resign_and_leave(reason)

    async def _resign_and_leave(self, reason: str) -> None:
        """Nothing of this host runs any more: resign its leads, and record that it left."""
        for pool_supervisor in tuple(self._pools.values()):
            await pool_supervisor.resign()
        await self._catalogue.leave_host(self.host, reason, self._origin)
        await self._reports.forget(self.host)

    def _shutdown_seconds(self) -> float:
        """Less than a lease where the owner is gone, and with it perhaps Redis."""
        owner = self._options.owner
        leases = [pool.config.lease_seconds for pool in self._catalogue.state.pools.values()]
        if owner and leases and not owner.alive():
            return min(self._options.shutdown_seconds, min(leases) / 2)
        return self._options.shutdown_seconds

    async def _kill_rest(self, deadline: float) -> None:
        """First asked, until the shut-down time is over; then killed."""
        self._processes.signal_all(signal.SIGTERM)
        if not await self._processes.wait_until_empty(deadline):
            self._processes.signal_all(signal.SIGKILL)
            await self._processes.wait_until_empty(asyncio.get_running_loop().time() + KILL_SECONDS)
