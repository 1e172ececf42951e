"""The projector, from the streams into the views: one is active, others are on standby.

    serve:  prepare the database -> wait for the lease on standby -> become active -> rounds
    round:  wait for entries (XREAD, no polling) -> one transaction: lease, archive, rows, position

A log that breaks its promise (a gap, a head behind the checkpoint, another event at a known seq,
an unreadable event) stops that pool's projection, with the reason in `checkpoints.status`. Other
pools go on, and nothing is skipped. The next active projector tries that pool again. An unreachable
Redis or database ends the serving, and so does a defect; it is then retried with back-off, without
end. An outage is one line in the log, and so is each defect.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import structlog

from eventstore.connection.backoff import Backoff
from eventstore.connection.calls import completed
from eventstore.errors import LogError, MusterError
from eventstore.log.notices import REPAIRED, UNAVAILABLE
from eventstore.telemetry.requirements import is_exported
from projector.fold.projection import AppliedBatch
from projector.intake.entries import OK
from projector.intake.source import Source, is_lost, opened
from projector.rebuild.file_repair import replace, restore
from projector.rebuild.startup import upgrade
from projector.rebuild.view_sets import read_version
from projector.service.active import Active
from projector.service.file_watch import watch_file
from projector.service.metrics import ProjectorMetrics
from projector.service.notices import Notices
from projector.service.options import ProjectorOptions
from projector.store.database import Database, DatabaseError
from projector.store.engines import address
from projector.store.failures import Kind, kind, reason
from projector.store.lease import Lease, Superseded
from projector.store.tables import VIEW_VERSION

if TYPE_CHECKING:
    from eventstore.telemetry.telemetry import Telemetry

log = structlog.get_logger("muster.projector")

BACKOFF_MIN_SECONDS: Final = 0.05
STOP_RESTORE_SECONDS: Final = 5.0
"""How long a stop tries to put the file of the views back, such as on a full disk."""
RETRYABLE: Final = (MusterError, DatabaseError, OSError)
"""Errors that end by themselves or by an operator's repair: retried with back-off."""


class Phase(StrEnum):
    STOPPED = "stopped"
    WAITING = "waiting"
    """For Redis or the database."""
    STANDBY = "standby"
    ACTIVE = "active"


class ViewsTooNew(MusterError):
    """The views were built by a newer version of Muster: update this projector."""


class Projector:
    """`start` returns at once; `phase` is its progress since.

    Raises `ConfigurationError` for an address of an unsupported database.
    """

    def __init__(self, options: ProjectorOptions) -> None:
        address(options.database_url)
        self.options = options
        self.phase = Phase.STOPPED
        self._task: asyncio.Task[None] | None = None
        self._reported: dict[str, str] = {}
        self._outage = ""
        self._notices = Notices(options)
        self.metrics = ProjectorMetrics() if options.metrics else None
        self._telemetry: Telemetry | None = None
        self._on_batch: Callable[[AppliedBatch], None] = self._log_status
        if options.otel and is_exported("TRACES"):
            self._trace()

    async def start(self) -> None:
        if self._task is None:
            self.phase = Phase.WAITING
            self._task = asyncio.create_task(self._run(), name=self.options.name)

    async def stop(self) -> None:
        """Release the lease and end. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if self._telemetry is not None:
                await self._telemetry.stop()
        self.phase = Phase.STOPPED

    async def wait(self) -> None:
        """Return once it is stopped."""
        task = self._task
        if task is not None:
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()

    def _trace(self) -> None:
        from eventstore.telemetry.telemetry import Telemetry
        from projector.service.tracing import traced

        self._telemetry = Telemetry("projector")
        self._on_batch = traced(self._telemetry, self._log_status)

    # ---- the outermost loop --------------------------------------------------------------------

    async def _run(self) -> None:
        max_seconds = self.options.backoff_max_seconds
        seconds = (BACKOFF_MIN_SECONDS, max_seconds)
        backoff = Backoff(seconds=seconds, reset_after_seconds=max_seconds)
        while True:
            try:
                await self._serve()
            except Superseded as error:
                log.info("projector.superseded", name=self.options.name, reason=str(error))
            except RETRYABLE as error:
                await self._handle_outage(error)
            except Exception:  # a defect: without a retry the process would only look healthy
                log.exception("projector.failed", name=self.options.name)
            self.phase = Phase.WAITING
            await asyncio.sleep(backoff.next_delay())

    async def _handle_outage(self, error: Exception) -> None:
        """Replace a damaged file where that loses nothing; log and publish why all waits."""
        if isinstance(error, DatabaseError) and kind(error) is not Kind.TRANSIENT:
            try:
                if done := await replace(self.options):
                    await self._notices.publish(REPAIRED, done)
            except RETRYABLE as failure:
                error = failure
        why, source = reason(error), "redis" if isinstance(error, LogError) else "database"
        outage = source if source == "redis" else why
        if outage != self._outage:
            self._outage = outage
            log.warning("projector.unavailable", name=self.options.name, source=source, reason=why)
        if source == "database":
            await self._notices.publish(UNAVAILABLE, why)

    async def _serve(self) -> None:
        """Be on standby, then active, until an error."""
        seconds = self.options.audit_seconds
        async with opened(self.options, connections=3, block_seconds=seconds) as (database, source):
            await self._stand_by(database, source)

    async def _stand_by(self, database: Database, source: Source) -> None:
        lease = Lease(database, seconds=self.options.lease_seconds)
        if self.metrics is not None:
            self.metrics.database = database
        self.phase = Phase.STANDBY
        try:
            if not await upgrade(source, lease):
                await lease.acquire()
            if await database.read(read_version) > VIEW_VERSION:
                raise ViewsTooNew
            report = self._activated, self._on_batch
            active = Active(self.options, source, lease, self._notices, self.metrics, *report)
            await self._run_loops(active)
        finally:
            if self.metrics is not None:
                self.metrics.end_term()
            if self.phase is Phase.ACTIVE:  # one process of all that have the file open
                await self._restore(database)
            with suppress(*RETRYABLE):  # it will lapse
                async with asyncio.timeout(lease.seconds / 2):
                    await lease.release()

    async def _restore(self, database: Database) -> None:
        """Where the file was deleted or replaced, put it back. A stop waits for a bounded time."""
        stopping = self._task is None
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_RESTORE_SECONDS if stopping else None):
                if done := await restore(database):
                    await self._notices.publish(REPAIRED, done)

    async def _run_loops(self, active: Active) -> None:
        """Run the loops of an active projector until one fails; raises its error."""
        loops = [
            asyncio.ensure_future(loop)
            for loop in (
                active.renew_lease(),
                active.follow(),
                active.follow_heartbeats(),
                active.trim_streams(),
                active.remove_ended(),
                active.retain_archive(),
                active.copy_states(),
                active.publish_forecasts(),
                active.store_alerts(),
                active.clean_up_rebuilds(),
                watch_file(active.database, self._notices),
            )
        ]
        try:
            # Not `gather`: a loop that fails meanwhile would replace a cancellation.
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in loops:
                task.cancel()
            await completed(asyncio.gather(*loops, return_exceptions=True))

    # ---- what the active part reports --------------------------------------------------------

    def _activated(self) -> None:
        self.phase = Phase.ACTIVE
        if self._outage:
            self._outage = ""
            log.info("projector.resumed", name=self.options.name)
        log.info("projector.active", name=self.options.name)

    def _log_status(self, applied: AppliedBatch) -> None:
        """One line when a pool's projection stops, and one when it goes on again."""
        pool, status = applied.position.pool, applied.position.status
        if status == self._reported.get(pool, OK):
            return
        self._reported[pool] = status
        if status == OK:
            log.info("projection.resumed", pool=pool, seq=applied.position.seq)
        else:
            seq, lost = applied.position.seq, is_lost(status)
            log.error("projection.stopped", pool=pool, seq=seq, reason=status, lost=lost)
