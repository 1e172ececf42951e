"""Recovers logs that Redis lost: from the archive, under the next generation.

    seize the projector's lease -> find damaged logs -> halt them -> archive what their streams
    still have -> wait until every lease has lapsed -> read loss reports -> rewrite each log -> open

Meanwhile no process writes a damaged log, and none of its agents run when it opens: no worker's
lease outlasts the wait. Agents that ran are then restarted as the next incarnation, pending ones
are pending again, and those whose end was requested have ended. Commands that were not archived are
named, from the loss reports of gateways and workers and from what only the lost stream had. After
an interruption at any point the logs stay closed, and the next attempt starts again and names the
same. Of two recoveries at once the later one goes on. Intact logs are not changed.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import structlog
from msgspec import Struct, field

from eventstore.errors import LogUnreachable, MusterError, OutcomeUnknown
from eventstore.keys import CATALOGUE
from eventstore.log.log import Log
from eventstore.recovery.loss_reports import delete_reports, write_reports
from eventstore.recovery.restore import LogRestore
from eventstore.retention import Retention
from projector.fold.projection import Projection, stopped
from projector.fold.snapshot import take_snapshot, truncated_start
from projector.intake.source import Addresses, Source, opened
from projector.rebuild.startup import prepare_views
from projector.recovery.damage_scan import find_damage, unarchived_events
from projector.recovery.losses import unarchived_event_report, unreadable_report
from projector.recovery.rewrite import LogRewrite, RecoveredLog
from projector.store.lease import LEASE_SECONDS, Lease, Superseded
from projector.store.tables import SERVING

log = structlog.get_logger("muster.recovery")

MARGIN_SECONDS: Final = 0.2
REPORT_WAIT_SECONDS: Final = 2.0
"""For gateways, where no lease has to lapse; they check their logs every second."""
ATTEMPTS: Final = 5
"""Of a recovery that has closed logs, while Redis accepts no commands."""
PAUSE_SECONDS: Final = 2.0
"""Between two attempts."""

BATCH: Final = 1000


class RecoveryFenced(MusterError):
    """Another recovery or a projector took over; logs not yet recovered stay closed."""


class RecoveryInterrupted(LogUnreachable):
    """Redis accepted no more commands once logs were closed."""

    def __init__(self, error: MusterError) -> None:
        super().__init__(f"{error}; damaged logs stay closed until `muster recover` is run again")


class Stage(Struct, frozen=True, kw_only=True):
    """The current step. `seconds_left`: of the wait for leases."""

    doing: str
    pool: str = ""
    seconds_left: float = 0.0


OnStage = Callable[[Stage], None]


class RecoveryOptions(Addresses, frozen=True, kw_only=True):
    lease_seconds: float = LEASE_SECONDS
    """The same as that of the projectors."""
    retention: Retention = Retention()
    actor: str = "recovery"


async def recover(options: RecoveryOptions, on_stage: OnStage) -> list[RecoveredLog]:
    """Recover every damaged log; returns what was done, nothing if all are intact.

    Retried while Redis accepts no commands. Raises `RecoveryFenced`, `LogUnreachable`
    (`RecoveryInterrupted` is one), `LogError` and `DatabaseError`.
    """
    async with opened(options) as (database, source):
        lease = Lease(database, seconds=options.lease_seconds)
        recovery = Recovery(source, lease, options.retention, options.actor, on_stage)
        await lease.seize()
        try:
            async with lease.keep_renewed():
                return await recovery.run_with_retry()
        except Superseded as error:
            raise RecoveryFenced from error
        finally:
            await lease.release()


async def examine(options: RecoveryOptions) -> dict[str, str]:
    """The damaged logs and why, as far as the views know; changes nothing."""
    async with opened(options) as (database, source):
        projection = Projection(SERVING, archives=False)
        await database.read(projection.load)
        return await find_damage(source, database, projection)


class Recovery(Struct, eq=False):
    """One recovery, under the projector's lease, which the caller keeps renewed."""

    _source: Source
    _lease: Lease
    _retention: Retention
    _actor: str
    _on_stage: OnStage
    _damage_found: bool = False
    """Logs may be closed then."""
    _written: dict[str, RecoveredLog] = {}
    _projection: Projection = field(default_factory=lambda: Projection(SERVING, archives=True))

    async def run_with_retry(self) -> list[RecoveredLog]:
        """Start again where Redis became unreachable after damage was found, not before that.

        Logs that an earlier attempt wrote may be open, and a later one does not find them damaged.
        """
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                await self.run()
                break
            except (LogUnreachable, OutcomeUnknown) as error:
                if not self._damage_found:
                    raise
                if not attempts_left:
                    raise RecoveryInterrupted(error) from error
            self._on_stage(Stage(doing="waiting for Redis"))
            await asyncio.sleep(PAUSE_SECONDS)
        return list(self._written.values())

    async def run(self) -> None:
        self._on_stage(Stage(doing="checking the logs"))
        event_log = Log(self._source.client, self._source.keys, retention=self._retention)
        await prepare_views(self._source, self._lease, self._projection)
        # First the catalogue, which names the pools:
        await self._archive_stream(CATALOGUE, event_log)
        damage = await find_damage(self._source, self._lease.database, self._projection)
        if damage:
            self._damage_found = True
            await self._recover(event_log, damage)

    async def _recover(self, event_log: Log, damage: Mapping[str, str]) -> None:
        restores = {pool: LogRestore(event_log, pool, self._actor) for pool in damage}
        generations = {}
        for pool, reason in damage.items():
            log.error("log.lost", pool=pool, reason=reason)
            generations[pool] = (await restores[pool].halt(reason)).generation
            self._on_stage(Stage(doing="archiving what is left of the stream", pool=pool))
            await self._archive_stream(pool, event_log)
            await self._report_unarchived(pool, event_log)
        if damage.keys() - {CATALOGUE}:  # its workers' leases must lapse first
            await self._wait_for_leases()
        else:
            await self._wait_for_reports()
        await self._lease.renew()  # one that was superseded meanwhile writes nothing
        rewrite = LogRewrite(self._lease, self._projection, event_log)
        for pool, reason in damage.items():
            self._on_stage(Stage(doing="rewriting the log", pool=pool))
            restore = restores[pool]
            self._written[pool] = await rewrite.run(pool, reason, restore, generations[pool])
        for pool, restore in restores.items():
            recovered = self._written[pool]
            await restore.open(recovered.generation)
            for name in {lost.pool for lost in recovered.unsaved if lost.pool}:
                await delete_reports(event_log, name)
            log.warning(
                "log.recovered",
                pool=recovered.pool,
                generation=recovered.generation,
                seq=recovered.seq,
                agents=recovered.agents,
                lost=len(recovered.unsaved),
            )

    # ---- what is left of a damaged log -------------------------------------------------------

    async def _archive_stream(self, pool: str, event_log: Log) -> None:
        projection = self._projection
        if not projection.positions[pool].generation:
            await self._start_archive(pool, event_log)
        while rows := await self._source.after(projection.positions[pool], count=BATCH):
            applied = await self._lease.write(partial(projection.write, pool=pool, rows=rows))
            projection.mark_committed(applied)
            if stopped(applied.position):
                break

    async def _start_archive(self, pool: str, event_log: Log) -> None:
        """From Redis' hashes, where the stream has lost its first events too.

        Agents and workers that cannot be read are reported first: a later attempt finds that the
        archive has started.
        """
        heads = await self._source.heads([pool])
        self._projection.learn_generation(pool, heads[pool].generation)
        if not await truncated_start(self._source, pool):
            return
        snapshot = await take_snapshot(self._source, pool)
        known = snapshot.state.agents.keys() | snapshot.state.workers.keys()
        unreadable = [one for one in snapshot.damaged if one.subject not in known]
        await write_reports(event_log, pool, map(unreadable_report, unreadable))
        start_from = partial(self._projection.start_from, snapshot=snapshot)
        self._projection.mark_committed(await self._lease.write(start_from))

    async def _report_unarchived(self, pool: str, event_log: Log) -> None:
        """Store events that do not follow the archive as loss reports: the wipe removes them."""
        position = self._projection.positions[pool]
        lost = await unarchived_events(self._source, self._lease.database, position)
        await write_reports(event_log, pool, map(unarchived_event_report, lost))

    # ---- waiting -----------------------------------------------------------------------------

    async def _wait_for_leases(self) -> None:
        """Until every worker's lease has lapsed, whenever it was last renewed."""
        pools = self._projection.catalogue.pools.values()
        seconds = max((pool.config.lease_seconds for pool in pools), default=10.0)
        deadline = time.monotonic() + seconds + MARGIN_SECONDS
        while (remaining := deadline - time.monotonic()) > 0:
            doing = "waiting until every lease has lapsed"
            self._on_stage(Stage(doing=doing, seconds_left=remaining))
            await asyncio.sleep(min(remaining, 1.0))

    async def _wait_for_reports(self) -> None:
        """Until every gateway has checked the catalogue and reported its losses."""
        self._on_stage(Stage(doing="waiting for reports", seconds_left=REPORT_WAIT_SECONDS))
        await asyncio.sleep(REPORT_WAIT_SECONDS)
