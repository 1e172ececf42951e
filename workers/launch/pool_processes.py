"""The worker processes of one host, as its supervisor manages them.

Some it launched, some it adopted from a supervisor before it. Each is known by worker id, and its
end is noted until the log knows of it too.
"""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Callable

import structlog
from msgspec import Struct

from eventstore.errors import MusterError
from eventstore.language.catalogue import Pool
from workers.host.capacity import HostLimits
from workers.host.processes import Process, this_process
from workers.launch.launchers import Launcher, LaunchFailed
from workers.process.options import WorkerOptions

log = structlog.get_logger("muster.pool_processes")

NOT_IMPORTED = "its code cannot be imported"
"""How a worker ends that a replacement needs, and whose code, as it is now, cannot be imported."""
ENDED_MAX = 10_000
"""How many ended workers are remembered at most."""


class LocalProcess(Struct):
    """A process that runs."""

    pool: str
    process: Process
    stop_watching: Callable[[], object]
    kill: asyncio.TimerHandle | None = None
    killed: str = ""
    """Why this supervisor killed it."""


class HostProcesses(Struct, eq=False):
    """Launches, adopts, watches and ends the workers of this host."""

    _launcher: Launcher
    _options_for: Callable[[Pool, str], WorkerOptions]
    _wake: Callable[[str], None]
    """Called with the pool of a worker whose process has ended; empty if that is not known."""
    limits: HostLimits = HostLimits()
    new_launcher: Callable[[], Launcher] | None = None
    """Makes one that imports the code as it is then; None: that cannot be had."""
    _former: dict[str, Launcher] = {}
    """What workers were launched by that are of an earlier one."""
    _preparing: set[Launcher] = set()
    _outdated: set[str] = set()
    """Workers of code that has changed, and that are to drain."""
    _renewals: dict[str, "asyncio.Task[str]"] = {}
    """By pool: the present replacement's import of the code, named by its id; why it failed."""
    _stopping: set[asyncio.Task[None]] = set()
    _full: str = ""
    _starting: set[str] = set()
    _running: dict[str, LocalProcess] = {}
    _ended: dict[str, str] = {}

    @property
    def count(self) -> int:
        return len(self._running)

    def room(self) -> tuple[int, str]:
        """How many more workers this host takes, and if none, why not."""
        was_full = bool(self._full)
        full = self.limits.full(self.count, was_full=was_full) or self.limits.busy(
            was_full=was_full
        )
        if full and full != self._full:
            log.warning("host.full", workers=self.count, reason=full)
        self._full = full
        return 0 if full else self.limits.workers - self.count, full

    async def start(self) -> None:
        await self._launcher.start(self._record_end)

    async def renew(self, launcher: Launcher) -> int:
        """Launch by another launcher from now on; the workers that run are outdated.

        Returns their number. Raises what `start` raises; then nothing has changed.
        """
        await self._start_other(launcher)
        new = self._running.keys() - self._outdated
        self._outdated |= new
        return len(new)

    async def _start_other(self, launcher: Launcher) -> None:
        self._preparing.add(launcher)
        try:
            await launcher.start(self._record_end)
        finally:
            self._preparing.discard(launcher)
        before, self._launcher = self._launcher, launcher
        new = self._running.keys() - self._former.keys()
        self._former |= dict.fromkeys(new, before)
        if not new:
            await before.stop()

    def prepare(self, pool: Pool) -> str | None:
        """Have the code imported as it is since the replacement of the pool's workers began.

        Returns why that cannot be; empty: new workers have it, or need not. None: not yet, and the
        pool is woken then.
        """
        replacement = pool.replacement
        if self.new_launcher is None or replacement is None or not replacement.runs:
            return ""
        renewal, name = self._renewals.get(pool.pool_name), replacement.replacement_id
        if renewal is None or renewal.get_name() != name:
            renewal = asyncio.create_task(self._import_again(self.new_launcher()), name=name)
            renewal.add_done_callback(lambda _: self._wake(pool.pool_name))
            self._renewals[pool.pool_name] = renewal
        return renewal.result() if renewal.done() and not renewal.cancelled() else None

    async def _import_again(self, launcher: Launcher) -> str:
        """Launch by this one from now on. Returns why that cannot be; then nothing has changed."""
        try:
            await self._start_other(launcher)
        except (MusterError, OSError) as error:
            await launcher.stop()
            log.error("code.not_reloaded", error=str(error))
            lines = str(error).strip().splitlines()  # the last ones are a traceback
            return ": ".join((NOT_IMPORTED, *dict.fromkeys((lines[0], lines[-1]))))
        return ""

    def is_outdated(self, worker_id: str) -> bool:
        """Whether it runs code that has changed since."""
        return worker_id in self._outdated

    def _forget_former(self, worker_id: str) -> None:
        self._outdated.discard(worker_id)
        launcher = self._former.pop(worker_id, None)
        if launcher is not None and launcher not in self._launchers:
            stopping = asyncio.get_running_loop().create_task(launcher.stop())
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)

    async def stop(self) -> None:
        for local in self._running.values():
            local.stop_watching()
            if local.kill is not None:
                local.kill.cancel()
        for renewal in self._renewals.values():
            renewal.cancel()
        for launcher in self._launchers:
            await launcher.stop()
        await asyncio.gather(*self._stopping)

    @property
    def _launchers(self) -> set[Launcher]:
        return {self._launcher, *self._former.values()}

    @property
    def pids(self) -> set[int]:
        """Those of all workers that run here, and of what they are forked from, or soon will be."""
        own = {local.process.pid for local in self._running.values()}
        launchers = self._launchers | self._preparing
        return own.union(*(launcher.pids for launcher in launchers))

    def exit_reason(self, worker_id: str) -> str | None:
        """How the worker's process ended; None while it runs or if it is not known here."""
        return self._ended.get(worker_id)

    def counts(self) -> Counter[str]:
        """How many processes run here, by pool."""
        return Counter(local.pool for local in self._running.values())

    def running(self, pool: str) -> set[str]:
        """The ids of the pool's workers whose processes run here."""
        return {worker_id for worker_id, local in self._running.items() if local.pool == pool}

    async def launch(self, pool: Pool, worker_id: str) -> None:
        """Start the process of an order, once. A later call does so if there is no room yet.

        However busy the processors are by now: an order has a deadline.
        """
        if worker_id in self._running or worker_id in self._ended:
            return
        if problem := self.prepare(pool):
            self._record_end(worker_id, problem)
        if problem != "":
            return
        if len(self._starting) >= self.limits.launches or self.limits.full(self.count):
            return
        self._starting.add(worker_id)
        local = LocalProcess(pool.pool_name, Process(0, 0), lambda: None)
        self._running[worker_id] = local
        try:
            local.process = await self._launcher.launch(self._options_for(pool, worker_id))
        except LaunchFailed as error:
            log.error("worker.launch_failed", worker_id=worker_id, error=str(error))
            self._record_end(worker_id, str(error))
            return
        except Exception as error:  # a defect must not leave a worker here that never was one
            self._record_end(worker_id, f"its launch failed: {error!r}")
            raise
        pid = local.process.pid
        log.info("worker.launched", pool=pool.pool_name, worker_id=worker_id, pid=pid)

    def adopt(self, pool: str, worker_id: str, process: Process) -> None:
        """Watch the process of a worker that is in the log. Known ones are skipped.

        Two processes may have been launched for an order, by one supervisor and the next: one of
        them is the worker, and the end of the other means nothing.
        """
        self._starting.discard(worker_id)  # another one may be launched
        if worker_id in self._running:
            return
        if process == this_process() or not process.alive():  # it ran in a single process
            if worker_id not in self._ended:
                self._record_end(worker_id, "its process is gone")
            return
        self._ended.pop(worker_id, None)  # that was another process, which came too late
        stop = process.watch(lambda: self._record_end(worker_id, "its process is gone"))
        self._running[worker_id] = LocalProcess(pool, process, stop)
        log.info("worker.adopted", pool=pool, worker_id=worker_id, pid=process.pid)

    def terminate(self, worker_id: str, grace_seconds: float) -> None:
        """Ask the process to end, and kill it when the grace is over. Unknown ones are skipped."""
        local = self._running.get(worker_id)
        if local is None or local.kill is not None:
            return
        self._signal(worker_id, local, signal.SIGTERM)
        local.kill = asyncio.get_running_loop().call_later(
            grace_seconds, self._signal, worker_id, local, signal.SIGKILL
        )

    def kill(self, worker_id: str, reason: str) -> None:
        """Kill the process; `reason` is how it ended. Unknown ones are skipped."""
        local = self._running.get(worker_id)
        if local is not None and not local.killed:
            local.killed = reason
            self._signal(worker_id, local, signal.SIGKILL)

    async def wait_until_empty(self, deadline: float) -> bool:
        """Wait until no worker runs here, or the event loop's time is `deadline`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while self._running:  # noqa: ASYNC110  # as the supervisor waits for a drain
                    await asyncio.sleep(0.1)
        return not self._running

    def signal_all(self, number: signal.Signals) -> None:
        """Signal every worker, when the time to shut down is over."""
        for worker_id, local in self._running.items():
            self._signal(worker_id, local, number)

    def _signal(self, worker_id: str, local: LocalProcess, number: signal.Signals) -> None:
        if local.process == this_process():  # a single one
            return
        if local.process.pid and local.process.signal(number):
            pid = local.process.pid
            log.warning("worker.signalled", worker_id=worker_id, pid=pid, signal=number.name)

    def _record_end(self, worker_id: str, how: str) -> None:
        self._starting.discard(worker_id)
        local = self._running.pop(worker_id, None)
        if local is not None:
            local.stop_watching()
            how = local.killed or how
            if local.kill is not None:
                local.kill.cancel()
        while len(self._ended) >= ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        self._ended[worker_id] = how
        self._forget_former(worker_id)
        self._wake(local.pool if local is not None else "")
