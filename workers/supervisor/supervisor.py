"""The supervisor: one process per host that keeps its workers.

It follows the catalogue and the pools' signals, and gives each pool a `Steward`, which is woken by
signals, by the end of a worker process, and by the clock. Where Redis is away it waits and says so
once; the workers go on until their leases lapse.
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import structlog
from msgspec import Struct
from msgspec.structs import replace

from eventstore.connection.backoff import Backoff
from eventstore.connection.clients import connect
from eventstore.errors import (
    Halted,
    LogError,
    LogMissing,
    LogUnreachable,
    OutcomeUnknown,
    RolledBack,
)
from eventstore.keys import Keys
from eventstore.language.catalogue import Pool
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.pool_log import PoolLog
from eventstore.log.reader import Reader
from eventstore.retention import Retention
from eventstore.steps.step import Origin
from workers.host.identity import host_name
from workers.host.lock import LOCK_TIMEOUT_SECONDS, HostLock
from workers.host.processes import Process
from workers.launch.launchers import ForkLauncher, InProcessLauncher, Launcher
from workers.launch.pool_processes import HostProcesses
from workers.launch.zygote import Plan
from workers.output.log_files import LogLimits, remove_old_files
from workers.process.options import WorkerOptions
from workers.supervisor.leader import CatalogueAccess
from workers.supervisor.pool_supervisor import PoolSupervisor

log = structlog.get_logger("muster.supervisor")

RETRY_SECONDS = (0.1, 2.0)
SHUTDOWN_SECONDS = 25.0
KILL_SECONDS = 2.0
FINAL_LEAVE_SECONDS = 1.0
"""For a host that left in haste to say so, if Redis hears it."""
LOG_CLEANUP_SECONDS = 600.0
"""How often old log files are looked for."""


class SupervisorOptions(Struct, frozen=True, kw_only=True):
    """What a supervisor needs to know. `roles` are role names and the paths of their classes."""

    redis_url: str
    key_prefix: str = ""
    host: str = ""
    roles: dict[str, str] = {}
    app_dir: str = ""
    log_dir: str = ".muster/logs"
    engine_url: str = ""
    through_pgbouncer: bool = False
    owner_pid: int = 0
    owner_start_time: int = 0
    poll_seconds: float = 1.0
    shutdown_seconds: float = SHUTDOWN_SECONDS
    single_process: bool = False
    fallback: bool = False
    """Whether the log stands in for another: see `WorkerOptions`."""
    retention: Retention = Retention()
    log_limits: LogLimits = LogLimits()
    """Of the log files that workers leave behind."""


class Supervisor:
    """Starts, watches and stops the workers of this host."""

    def __init__(self, options: SupervisorOptions) -> None:
        self._options = options
        self.host = options.host or host_name()
        self._keys = Keys(options.key_prefix)
        self._client = connect(options.redis_url)
        self._events = Log(self._client, self._keys, retention=options.retention)
        self._reader = Reader(options.redis_url)
        self._catalogue = CatalogueLog(self._events, Reader(options.redis_url))
        self._origin = Origin(actor=f"supervisor:{self.host}")
        plan = Plan(roles=options.roles, app_dir=options.app_dir)
        launcher: Launcher = (
            InProcessLauncher(plan) if options.single_process else ForkLauncher(plan)
        )
        self._processes = HostProcesses(
            launcher, self._worker_options, self._wake_all, in_process=options.single_process
        )
        self._pool_supervisors: dict[str, PoolSupervisor] = {}
        self._wakeups: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lock = HostLock(f"{self.host}|{options.redis_url}|{options.key_prefix}")
        self._joined = False
        self._stopped = False

    async def start(self) -> None:
        """Import the agent classes, join as a host, and tend all pools.

        Raises `ConfigurationError` when a class cannot be imported or this host has a supervisor.
        """
        await self._lock.acquire(LOCK_TIMEOUT_SECONDS)
        await self._processes.start()
        try:
            await self._join()
        except (LogMissing, Halted, RolledBack) as error:
            log.warning("supervisor.waits_for_log", reason=str(error))
        self._tasks["follow"] = asyncio.create_task(
            self._retry_forever("following", self._follow), name="follow"
        )
        self._tasks["logs"] = asyncio.create_task(
            self._retry_forever("clearing logs", self._clean_up_logs), name="logs"
        )
        log.info("supervisor.started", host=self.host, pools=len(self._pool_supervisors))

    async def stop(self) -> None:
        """Drain this host's workers within the shut-down time, then end what is left."""
        if self._stopped:
            return
        self._stopped = True
        if self._joined:
            await self._leave()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._processes.stop()
        await self._reader.close()
        await self._catalogue.close()
        await self._client.aclose()
        self._lock.release()
        log.info("supervisor.stopped", host=self.host)

    async def _join(self) -> None:
        """Offer this host. Raises `LogMissing`, `Halted`, `RolledBack` where the log was lost."""
        await self._catalogue.start()
        await self._catalogue.join_host(self.host, socket.gethostname(), os.getpid(), self._origin)
        self._joined = True
        self._supervise_new_pools()

    # ---- following ---------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Wake stewards by what the catalogue and the signals say. Returns only by an error."""
        positions: dict[str, str] = {}
        last_seq = -1
        if not self._joined:
            await self._join()
        while True:
            await self._catalogue.refresh()
            self._supervise_new_pools()
            await self._rejoin()
            if self._catalogue.state.seq != last_seq:
                last_seq = self._catalogue.state.seq
                self._wake_all()
            positions[self._keys.catalogue] = self._catalogue.state.stream_id
            for name in self._pool_supervisors:
                signals = self._keys.pool(name, "signals")
                if signals not in positions:
                    positions[signals] = await self._reader.last_id(signals)
                    self._wakeups[name].set()
            for stream, entries in (await self._reader.read(positions)).items():
                positions[stream] = entries[-1][0].decode()
                self._wake(stream)

    async def _clean_up_logs(self) -> None:
        """Remove old log files of workers that are gone, for ever."""
        folder, limits = Path(self._options.log_dir), self._options.log_limits
        while True:
            removed = await asyncio.to_thread(remove_old_files, folder, limits, time.time())
            if removed:
                log.info("logs.removed", files=len(removed))
            await asyncio.sleep(LOG_CLEANUP_SECONDS)

    def _supervise_new_pools(self) -> None:
        for name in self._catalogue.state.pools:
            if name in self._pool_supervisors or self._stopped:  # who leaves begins nothing new
                continue
            self._wakeups[name] = asyncio.Event()
            self._pool_supervisors[name] = self._new_pool_supervisor(name)
            self._tasks[f"pool:{name}"] = asyncio.create_task(
                self._retry_forever(f"pool {name}", partial(self._supervise_pool, name)),
                name=f"pool:{name}",
            )

    def _new_pool_supervisor(self, name: str) -> PoolSupervisor:
        def pool() -> Pool:
            found = self._find_pool(name)
            return _limit_to_one_worker(found) if self._options.single_process else found

        catalogue = CatalogueAccess(pool, self._joined_hosts, self._delete, self._remove_host)
        return PoolSupervisor(
            self.host,
            PoolLog(self._events, name, self._origin),
            self._processes,
            catalogue,
            poll_seconds=self._options.poll_seconds,
        )

    def _find_pool(self, name: str) -> Pool:
        """Raises `LogError` where a catalogue was recovered without the pool."""
        if (found := self._catalogue.state.pools.get(name)) is None:
            raise LogError(f"the catalogue does not know pool {name!r} any more")
        return found

    def _joined_hosts(self) -> list[str]:
        hosts = self._catalogue.state.hosts.values()
        return [host.host for host in hosts if host.status == "joined"]

    async def _delete(self, pool: Pool) -> None:
        await self._catalogue.delete_pool(pool, self._origin, reason="requested")

    async def _remove_host(self, host: str) -> None:
        await self._catalogue.leave_host(host, "an order for it lapsed", self._origin)

    async def _rejoin(self) -> None:
        """Another supervisor may have taken this host for gone; it is not."""
        host = self._catalogue.state.hosts.get(self.host)
        if host is not None and host.status == "left" and not self._stopped:
            await self._catalogue.join_host(
                self.host, socket.gethostname(), os.getpid(), self._origin
            )

    # ---- tending -----------------------------------------------------------------------------

    async def _supervise_pool(self, name: str) -> None:
        """Tend one pool for ever. Returns only by an error."""
        self._find_pool(name)
        await self._events.initialise(name)
        wakeup, pool_supervisor = self._wakeups[name], self._pool_supervisors[name]
        while True:
            wakeup.clear()
            seconds = await pool_supervisor.reconcile() * random.uniform(0.8, 1.2)
            try:  # not wait_for: 3.11's forgets a cancellation that comes with the wake-up
                async with asyncio.timeout(seconds):
                    await wakeup.wait()
            except TimeoutError:
                continue

    async def _retry_forever(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do it again after an error, with back-off; log it once per outage."""
        backoff = Backoff(seconds=RETRY_SECONDS, reset_after_seconds=RETRY_SECONDS[1])
        while True:
            try:
                await work()
            except (LogUnreachable, OutcomeUnknown) as error:
                if not backoff.active:
                    log.warning("log.unreachable", during=what, error=str(error))
            except LogError as error:
                if not backoff.active:
                    log.error("log.error", during=what, error=str(error))
            except Exception:
                log.exception("supervisor.error", during=what)
            await asyncio.sleep(backoff.next_delay())

    def _wake(self, stream: str) -> None:
        """Wake the pool whose signals came."""
        for name, wakeup in self._wakeups.items():
            if stream == self._keys.pool(name, "signals"):
                wakeup.set()

    def _wake_all(self) -> None:
        for wakeup in self._wakeups.values():
            wakeup.set()

    def _worker_options(self, pool: Pool, worker_id: str) -> WorkerOptions:
        options = self._options
        return WorkerOptions(
            redis_url=options.redis_url,
            key_prefix=options.key_prefix,
            pool_name=pool.pool_name,
            worker_id=worker_id,
            host=self.host,
            config=pool.config,
            log_dir=options.log_dir,
            engine_url=options.engine_url,
            through_pgbouncer=options.through_pgbouncer,
            owner_pid=options.owner_pid,
            owner_start_time=options.owner_start_time,
            fallback=options.fallback,
            retention=options.retention,
        )

    # ---- leaving -----------------------------------------------------------------------------

    async def _leave(self) -> None:
        """Cordon first, so that nothing is started here any more; then drain."""
        reason = "host-shutdown"
        seconds = self._shutdown_seconds()
        deadline = asyncio.get_running_loop().time() + seconds
        for pool_supervisor in self._pool_supervisors.values():
            pool_supervisor.drain(reason)
        try:
            async with asyncio.timeout(seconds):
                await self._catalogue.cordon_host(self.host, reason, self._origin)
                log.info("host.cordoned", workers=self._processes.count)
                while self._processes.count:
                    self._wake_all()
                    await asyncio.sleep(0.1)
                await self._resign_and_leave(reason)
        except (TimeoutError, LogError) as error:
            log.warning("supervisor.shutdown_incomplete", error=str(error) or "out of time")
            await self._kill_rest(deadline)
            with contextlib.suppress(TimeoutError, LogError):
                async with asyncio.timeout(FINAL_LEAVE_SECONDS):
                    await self._resign_and_leave(reason)

    async def _resign_and_leave(self, reason: str) -> None:
        """Nothing of this host runs any more: its leads are free, and it has left."""
        for pool_supervisor in self._pool_supervisors.values():
            await pool_supervisor.resign()
        await self._catalogue.leave_host(self.host, reason, self._origin)

    def _shutdown_seconds(self) -> float:
        """Less than a lease where the owner is gone, and with it perhaps the log's server."""
        owner = Process(self._options.owner_pid, self._options.owner_start_time)
        leases = [pool.config.lease_seconds for pool in self._catalogue.state.pools.values()]
        if owner.pid and leases and not owner.alive():
            return min(self._options.shutdown_seconds, min(leases) / 2)
        return self._options.shutdown_seconds

    async def _kill_rest(self, deadline: float) -> None:
        """First asked, until the shut-down time is over; then killed."""
        self._processes.signal_all(signal.SIGTERM)
        if not await self._processes.wait_until_empty(deadline):
            self._processes.signal_all(signal.SIGKILL)
            await self._processes.wait_until_empty(asyncio.get_running_loop().time() + KILL_SECONDS)


def _limit_to_one_worker(pool: Pool) -> Pool:
    """A pool as a single process can run it."""
    config = replace(
        pool.config,
        max_workers=1,
        min_workers=min(pool.config.min_workers, 1),
        suspicion_window_seconds=0.0,  # there is no second process to set anybody apart in
    )
    return replace(pool, config=config)
