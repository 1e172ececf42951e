"""A worker: a process with an event loop and slots for agents, living on a lease.

It starts on an order that must still be open, claims spawns for itself, runs the agents, and
drains (see `registration`) on request, when the class of its agents is not available, when a part
of it fails, or when an agent's code cannot be ended: then the others are released and the process
dies, to be reaped. Where the lease is lost its agents are cancelled, and nothing is written.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from eventstore.connection.clients import Client
from eventstore.keys import Keys
from eventstore.language.pool_config import read_config
from eventstore.language.workers import Recover, WorkerStatus
from eventstore.log.log import Log
from eventstore.log.pool_log import PoolLog
from eventstore.log.script_runner import parse_reply
from eventstore.steps.step import Fence, Origin
from workers.api.agent import Agent, starts_at_once
from workers.api.engine import Database
from workers.host.processes import boot_seconds
from workers.output.descriptors import StandardPipes
from workers.output.lines import Output
from workers.process.durable_saves import DurableSaves
from workers.process.inbox import listen
from workers.process.lease import Hooks, Lease
from workers.process.options import WorkerOptions
from workers.process.registration import Registration, ShutdownResult
from workers.process.reports import Reports
from workers.process.role_setup import RoleSetup, SetupFailed
from workers.process.upkeep import Upkeep
from workers.runtime.calls import CANCEL_SECONDS, STUCK_SECONDS
from workers.runtime.loop_guard import guard_loop
from workers.runtime.slots import Slots
from workers.runtime.stop_signal import StopRequest
from workers.runtime.worker_context import WorkerContext

if TYPE_CHECKING:
    from workers.process.exports import Exports

ORPHAN_DRAIN_SECONDS: Final = 3.0
"""How long a drain may take whose owner is gone."""
CLAIM_SECONDS: Final = 0.02
"""For its first claim, and the start of those agents. What can wait until then does."""
CLOSE_SECONDS: Final = 5.0

log = structlog.get_logger("muster.worker")


class Worker:
    """One worker of one pool. `start` it once; `wait` returns why it ended, `exit_code` how."""

    def __init__(
        self,
        options: WorkerOptions,
        roles: Mapping[str, type[Agent]],
        *,
        start_time: int,
        pipes: StandardPipes | None = None,
    ) -> None:
        self.exit_code = 0
        self._options = options
        self._roles = dict(roles)
        self._start_time = start_time
        self._pipes = pipes
        client = Client(options.redis_url)
        keys, retention = Keys(options.key_prefix), options.retention
        self._log = Log(client, keys, retention=retention, survives_recovery=False)
        origin = Origin(actor=f"worker:{options.worker_id}")
        self._pool_log = PoolLog(self._log, options.pool_name, origin)
        self._registration = Registration(self._pool_log, options.worker_id)
        self._upkeep = Upkeep(self._pool_log, options.worker_id, self.request_drain)
        self._reports: Reports | None = None
        if options.report_to:
            self._reports = Reports(options.pool_name, options.report_to)
            self._log.on_answered = self._reports.observe_call
        self._database = Database(options.engine_url)
        self._durable_saves = DurableSaves(self._log, options)
        self._output: Output | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._shutdown_task: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[str] | None = None
        self._drain_requested: Callable[[], None] | None = None
        self._lost_reason = ""
        self._exports: Exports | None = None
        self._new_slots: Callable[..., Slots] = Slots

    # ---- start and end --------------------------------------------------------------------------

    async def start(self) -> None:
        """Start to work. Raises `NotOrdered`, or `LogError` when Redis does not answer."""
        granted_at = boot_seconds()
        try:
            size = await self._registration.register(self._options.host, self._start_time)
        except BaseException:
            await self._log.client.aclose()
            raise
        guard_loop(asyncio.get_running_loop())
        self._ended = asyncio.get_running_loop().create_future()
        options = self._options
        if options.capture:
            self._output = options.new_output(self._roles)
        if options.otel:
            self._export()
        self._upkeep.start(self._output, self._pipes, shared=not options.exits)
        self._make_parts(size, granted_at)
        await self._lease.start(preparing=self._setup.phase)
        self._slots.wake()
        self._start_task(self._run_critical("claiming", self._claim()))
        self._start_task(self._run_critical("listening", self._listen()))
        asyncio.get_running_loop().call_later(CLAIM_SECONDS, self._log_start, size)
        if self._drain_requested is not None:
            self._drain_requested()

    def _log_start(self, size: int) -> None:
        log.info("worker.started", worker_id=self._options.worker_id, max_agents=size)

    async def _claim(self) -> None:
        try:
            await self._setup.start(self._context.config.start_timeout_seconds)
        except SetupFailed as error:
            self._drain(str(error))
        else:
            role = self._roles.get(self._options.role)
            self._context.starts = self._options.role if role and starts_at_once(role) else ""
            self._context.shared = self._setup.shared
            self._upkeep.protect_state()
            await self._slots.claim_forever()

    async def wait(self) -> str:
        """Until it has ended; returns the reason."""
        assert self._ended is not None, "not started"
        return await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Drain, unless it has ended. A second call only waits; before `start` it does nothing."""
        if self._ended is not None:
            self.request_drain("stop")
            await self.wait()

    def abandon(self, reason: str) -> None:
        """Cancel all agents, write nothing, end: what a kill is to a process of its own."""
        if self._ended is not None and not self._ended.done():
            self._on_lost(reason)

    def request_drain(self, reason: str, *, ordered: bool = True) -> None:
        """Release all agents, write `worker.stopped`, end; returns at once.

        `ordered`: else it is a drain only if the log says so, too, and the loss of the worker if
        not.
        """
        if self._ended is None:
            self._drain_requested = partial(self.request_drain, reason, ordered=ordered)
        else:
            self._drain(reason, ordered=ordered)

    def _drain(self, reason: str, seconds: float | None = None, *, ordered: bool = True) -> None:
        if self._shutdown_task is None:
            seconds = self._context.config.drain_seconds if seconds is None else seconds
            drain = partial(self._registration.drain, self._slots, reason, seconds)
            loop = asyncio.get_running_loop()
            self._drain_task = loop.create_task(drain(self._on_empty, ordered=ordered))
            self._shutdown_task = loop.create_task(self._shut_down(reason))

    async def _shut_down(self, reason: str) -> None:
        assert self._ended is not None
        await self._cancel_tasks()
        result = await self._drain_result()
        self.exit_code = result.value
        reason = self._lost_reason or ("stuck" if result is ShutdownResult.STUCK else reason)
        worker_id = self._options.worker_id
        log.info("worker.exited", worker_id=worker_id, result=result.name.lower(), reason=reason)
        if self._slots.stuck and self._options.exits:
            os._exit(self.exit_code)
        try:
            await asyncio.wait_for(self._close(), CLOSE_SECONDS)
        except Exception:  # its process ends, or is another's too: the rest is undone
            log.exception("worker.not_closed", worker_id=worker_id)
        finally:
            self._upkeep.stop()
            if self._reports is not None:
                self._reports.flush()
            self._ended.set_result(reason)

    async def _on_empty(self) -> None:
        await self._setup.stop(self._context.config.stop_grace_seconds)
        await self._lease.stop()

    async def _drain_result(self) -> ShutdownResult:
        """How the drain ended; a lease lost meanwhile (or before) ends it at once."""
        await asyncio.wait({self._drain_task})
        if self._lost_reason:
            self._slots.request_stop_all(StopRequest.ABANDON, "lost")
            await self._slots.wait_until_empty(STUCK_SECONDS + 1.0)
            return ShutdownResult.LOST
        if error := self._drain_task.exception():
            log.error("worker.drain_failed", exc_info=error)
            return ShutdownResult.LATE
        return self._drain_task.result()

    async def _close(self) -> None:
        await self._setup.stop(CLOSE_SECONDS / 2)
        await self._lease.stop()
        await self._cancel_tasks()
        await self._durable_saves.close()
        if self._exports is not None:
            await self._exports.stop()
        async with aclosing(self._log.client):
            await self._database.close()

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_critical(self, part: str, work: Coroutine[Any, Any, None]) -> None:
        """A part that must not end by itself: with only its lease the worker would seem well."""
        try:
            await work
        except Exception:
            log.exception("worker.failed", worker_id=self._options.worker_id, part=part)
        self._drain("defect", ordered=False)

    async def _cancel_tasks(self) -> None:
        """Stop listening and claiming. A time-out at the same time may swallow a cancellation."""
        while tasks := [task for task in tuple(self._tasks) if task.cancel()]:
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)

    # ---- what comes from outside ---------------------------------------------------------------

    async def _listen(self) -> None:
        await asyncio.sleep(CLAIM_SECONDS)
        options = self._options
        key = self._log.keys.pool(options.pool_name, f"inbox:{options.worker_id}")
        handlers: dict[str, Callable[..., object]] = {
            "work": self._slots.wake,
            "stop": self._lease.renew_soon,  # the reply to a renewal has the flag
            "drain": lambda: self.request_drain("drain"),
            "move": self._slots.move,
            "move-busy": partial(self._slots.move, busy=True),
            "quit": lambda: None if self._slots.runs else self.request_drain("quit"),
        }
        redeliver = partial(self._slots.wake, redeliver=True)
        await listen(options.redis_url, key, handlers, on_reconnected=redeliver)

    def _on_renewed(self, raw: list[Any]) -> None:
        reply = parse_reply(self._options.pool_name, raw, self._log)
        status = reply.rest[0].decode()
        self._slots.apply_stop_flags(reply.rest[1])
        if int(reply.rest[4]):
            self._slots.wake()
        if version := reply.rest[2].decode():
            self._context.config, _ = read_config(reply.rest[3])
            self._lease.reconfigure(self._context.config, version)
            log.info("worker.reconfigured", worker_id=self._options.worker_id, version=version)
        reason = self._upkeep.check(self._context.config)
        if self._reports is not None:
            self._reports.send(self._lease.heartbeat)
        if self._shutdown_task is not None:
            return
        if status == WorkerStatus.DRAINING:
            self.request_drain("drain")
        elif reason:
            self.request_drain(reason)
        elif status == WorkerStatus.SUSPECT:
            self._start_task(self._recover())

    async def _recover(self) -> None:
        await self._registration.write(Recover())
        self._slots.wake()

    def _on_lost(self, reason: str) -> None:
        """The right to run agents is lost. A second call does nothing."""
        if not self._lost_reason:
            self._lost_reason = reason
            log.error("worker.lost", worker_id=self._options.worker_id, reason=reason)
            self._slots.request_stop_all(StopRequest.ABANDON, reason)
            self._drain(reason, 0.0)
            self._drain_task.cancel()
            self._confirm_task = asyncio.get_running_loop().create_task(self._confirm())

    async def _confirm(self) -> None:
        await self._slots.wait_until_empty()
        if not self._slots.stuck:
            self._lease.confirm()

    def _export(self) -> None:
        from workers.process.exports import Exports

        self._exports = Exports(self._options, self._output)
        self._new_slots = self._exports.new_slots

    # ---- what it is made of --------------------------------------------------------------------

    def _make_parts(self, size: int, granted_at: float) -> None:
        options, registration = self._options, self._registration
        self._context = context = WorkerContext(
            log=self._pool_log,
            fence=Fence(options.worker_id, registration.epoch),
            config=options.config,
            roles=self._roles,
            on_role_problem=self.request_drain,
            leaves_agents=lambda: registration.leaves_agents,
            database=self._database,
            output=self._output,
            fallback=options.fallback,
            confirm=self._durable_saves.confirm if self._durable_saves.needed else None,
        )
        on_stuck = partial(self._drain, "stuck")
        self._slots = slots = self._new_slots(
            context, size, on_lost=self._on_lost, on_stuck=on_stuck
        )
        hooks = Hooks(
            high_water_mark=self._pool_log.high_water_mark,
            busy=slots.busy,
            snapshot=slots.snapshot,
            agent_of=slots.agent_of,
            renewed=self._on_renewed,
            lost=self._on_lost,
            log_unavailable=lambda: self._start_task(
                registration.report_running(slots.runs.values())
            ),
            orphaned=partial(self._drain, "owner-gone", ORPHAN_DRAIN_SECONDS),
        )
        self._lease = Lease(options, registration.epoch, hooks, granted_at=granted_at)
        context.on_fenced = self._lease.renew_soon
        context.lease_expired = lambda: self._lease.expired
        self._setup = RoleSetup(
            options,
            self._roles,
            self._database,
            on_phase=self._lease.prepare,
            on_ended=partial(self._drain, ordered=False),
        )
