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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog
from msgspec import Struct

from eventstore.connection.clients import connect
from eventstore.errors import LogUnreachable, MusterError, OutcomeUnknown
from eventstore.keys import CATALOGUE
from eventstore.log.log import Log
from eventstore.recovery.loss_reports import delete_reports, write_reports
from eventstore.recovery.restore import LogRestore
from eventstore.retention import Retention
from projector.fold.projection import Projection
from projector.intake.source import Source, opened
from projector.rebuild.startup import prepare_views
from projector.recovery.damage_scan import Damage, find_damage
from projector.recovery.drain import StreamDrain, ignore_losses
from projector.recovery.rewrite import LogRewrite, RecoveredLog
from projector.store.database import Database
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


class RecoveryOptions(Struct, frozen=True, kw_only=True):
    redis_url: str
    database_url: str
    key_prefix: str = ""
    lease_seconds: float = LEASE_SECONDS
    """The same as that of the projectors."""
    retention: Retention = Retention()
    actor: str = "recovery"

    @property
    def addresses(self) -> tuple[str, str, str]:
        return self.redis_url, self.key_prefix, self.database_url


async def recover(options: RecoveryOptions, on_stage: OnStage) -> list[RecoveredLog]:
    """Recover every damaged log; returns what was done, nothing if all are intact.

    Retried while Redis accepts no commands. Raises `RecoveryFenced`, `LogUnreachable`
    (`RecoveryInterrupted` is one), `LogError` and `DatabaseError`.
    """
    async with opened(*options.addresses) as (database, source):
        lease = Lease(database, seconds=options.lease_seconds)
        make_recovery = partial(
            Recovery,
            database,
            source,
            lease,
            retention=options.retention,
            actor=options.actor,
            on_stage=on_stage,
        )
        await lease.seize()
        try:
            async with lease.keep_renewed():
                return await _run_with_retry(make_recovery, on_stage)
        except Superseded as error:
            raise RecoveryFenced from error
        finally:
            await lease.release()


async def _run_with_retry(
    make_recovery: "Callable[[], Recovery]", on_stage: OnStage
) -> list[RecoveredLog]:
    """Start again where Redis became unreachable after damage was found, not before that.

    Logs that an earlier attempt wrote may be open, and a later one does not find them damaged.
    """
    written: dict[str, RecoveredLog] = {}
    damage_found, attempts_left = False, ATTEMPTS
    while True:
        recovery = make_recovery()
        try:
            written |= {one.pool: one for one in await recovery.run()}
            return list(written.values())
        except (LogUnreachable, OutcomeUnknown) as error:
            written |= recovery.written
            damage_found, attempts_left = damage_found or recovery.damage_found, attempts_left - 1
            if not damage_found:
                raise
            if not attempts_left:
                raise RecoveryInterrupted(error) from error
        on_stage(Stage(doing="waiting for Redis"))
        await asyncio.sleep(PAUSE_SECONDS)


async def examine(options: RecoveryOptions) -> list[Damage]:
    """The damaged logs, as far as the views know; changes nothing."""
    async with opened(*options.addresses) as (database, source):
        projection = Projection(SERVING, archives=False)
        await database.read(projection.load)
        return await find_damage(source, database, projection)


class Recovery:
    """One recovery, under the projector's lease, which the caller keeps renewed."""

    def __init__(
        self,
        database: Database,
        source: Source,
        lease: Lease,
        *,
        retention: Retention,
        actor: str,
        on_stage: OnStage,
    ) -> None:
        self._database = database
        self._source = source
        self._lease = lease
        self._retention = retention
        self._actor = actor
        self._on_stage = on_stage
        self.damage_found = False
        """Whether damage was found: logs may be closed."""
        self.written: dict[str, RecoveredLog] = {}
        self._projection = Projection(SERVING, archives=True)
        self._stream_drain = StreamDrain(database, source, lease, self._projection)

    async def run(self) -> list[RecoveredLog]:
        self._on_stage(Stage(doing="checking the logs"))
        await prepare_views(self._database, self._source, self._lease, self._projection)
        # First the catalogue, which names the pools:
        await self._stream_drain.drain(CATALOGUE, ignore_losses)
        damage = await find_damage(self._source, self._database, self._projection)
        if not damage:
            return []
        self.damage_found = True
        client = connect(self._source.url, max_connections=2)
        try:
            event_log = Log(client, self._source.keys, retention=self._retention)
            return await self._recover(event_log, damage)
        finally:
            await client.aclose()

    async def _recover(self, event_log: Log, damage: Sequence[Damage]) -> list[RecoveredLog]:
        restores = [LogRestore(event_log, damaged.pool, self._actor) for damaged in damage]
        generations = []
        for one, restore in zip(damage, restores, strict=True):
            log.error("log.lost", pool=one.pool, reason=one.reason)
            generations.append((await restore.halt(one.reason)).generation)
            self._on_stage(Stage(doing="archiving what is left of the stream", pool=one.pool))
            await self._stream_drain.drain(one.pool, partial(write_reports, event_log, one.pool))
        if any(one.pool != CATALOGUE for one in damage):  # its workers' leases must lapse first
            await self._wait_for_leases()
        else:
            await self._wait_for_reports()
        await self._lease.renew()  # one that was superseded meanwhile writes nothing
        rewrite = LogRewrite(self._database, self._lease, self._projection, event_log)
        for one, restore, generation in zip(damage, restores, generations, strict=True):
            self._on_stage(Stage(doing="rewriting the log", pool=one.pool))
            self.written[one.pool] = await rewrite.run(one, restore, generation)
        for restore, recovered in zip(restores, self.written.values(), strict=True):
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
        return list(self.written.values())

    async def _wait_for_leases(self) -> None:
        """Until every worker's lease has lapsed, whenever it was last renewed."""
        pools = self._projection.catalogue.pools.values()
        seconds = max((pool.config.lease_seconds for pool in pools), default=10.0)
        deadline = time.monotonic() + seconds + MARGIN_SECONDS
        while (remaining := deadline - time.monotonic()) > 0:
            self._on_stage(
                Stage(doing="waiting until every lease has lapsed", seconds_left=remaining)
            )
            await asyncio.sleep(min(remaining, 1.0))

    async def _wait_for_reports(self) -> None:
        """Until every gateway has checked the catalogue and reported its losses."""
        self._on_stage(Stage(doing="waiting for reports", seconds_left=REPORT_WAIT_SECONDS))
        await asyncio.sleep(REPORT_WAIT_SECONDS)
