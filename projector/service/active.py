"""What the active projector does: follow events and heartbeats, keep its lease, watch and trim.

Every transaction of its begins by proving the lease. Where the views are not such as can be gone on
from, they are made so first (`projector/rebuild/startup.py`).
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import structlog
from msgspec import Struct
from sqlalchemy import Connection

from eventstore.errors import LogError, LogUnreachable, Unreadable
from eventstore.keys import CATALOGUE
from eventstore.log.log import Log
from eventstore.log.reader import Entry, Reader
from eventstore.recovery.restore import halt_generation
from eventstore.retention import Retention
from projector.fold import heartbeats
from projector.fold.projection import AppliedBatch, Projection, stopped
from projector.fold.snapshot import SnapshotFailed, take_snapshot, truncated_start
from projector.intake.entries import OK, read_entries
from projector.intake.integrity import describe_damage, rewritten
from projector.intake.source import Source
from projector.rebuild.lease import drop_abandoned_tables
from projector.rebuild.startup import prepare_views
from projector.recovery.recovery import Recovery, Stage
from projector.service.trimming import Trimmer
from projector.store.database import Database
from projector.store.lease import LEASE_SECONDS, Lease
from projector.store.rows import Position
from projector.store.tables import SERVING

log = structlog.get_logger("muster.projector")

RENEWAL_TIMEOUT_LEASES: Final = 5
"""For so many leases a renewal waits for PostgreSQL, and for our own transaction before it."""


class ProjectorOptions(Struct, frozen=True, kw_only=True):
    """Everything a projector needs to know."""

    redis_url: str
    database_url: str
    key_prefix: str = ""
    name: str = "projector"
    batch: int = 1000
    """Events of one pool in one transaction."""
    lease_seconds: float = LEASE_SECONDS
    """How long the active one may be silent before another takes over."""
    heartbeat_seconds: float = 1.0
    """How long heartbeats are gathered before they are written."""
    audit_seconds: float = 2.0
    """How often it looks whether the logs still stand where it saw them."""
    auto_recover: bool = False
    """Whether logs that were lost are recovered without being asked to."""
    backoff_max_seconds: float = 5.0
    retention: Retention = Retention()
    trim_seconds: float = 5.0
    """How often what is old is trimmed from the streams."""


class Active:
    """One term of office. Its loops run until one fails; `on_taken` hears of every batch."""

    def __init__(
        self,
        options: ProjectorOptions,
        database: Database,
        source: Source,
        lease: Lease,
        *,
        on_active: Callable[[], None],
        on_batch: Callable[[AppliedBatch], None],
    ) -> None:
        self._options = options
        self._on_active = on_active
        self._on_batch = on_batch
        self._database = database
        self._source = source
        self._lease = lease
        self._log = Log(source.client, source.keys)
        self._projection = Projection(SERVING, archives=True)
        self._audited_at = time.monotonic()
        self._following = False
        self._unreadable_heartbeats = heartbeats.UnreadableLog()

    async def renew_lease(self) -> None:
        """Something between us and PostgreSQL can swallow an answer: raises `TimeoutError` then."""
        while True:
            await asyncio.sleep(self._options.lease_seconds / 4)
            async with asyncio.timeout(self._renewal_timeout_seconds()):
                await self._lease.renew()

    def _renewal_timeout_seconds(self) -> float | None:
        """None where a transaction of ours may take any time: one may move all rows of the views.

        SQLite always answers.
        """
        if self._database.sqlite or not self._following:
            return None
        return RENEWAL_TIMEOUT_LEASES * self._options.lease_seconds

    async def clean_up_rebuilds(self) -> None:
        """Drop what a rebuild that died left behind."""
        rebuild_lease = Lease(self._database, "rebuild", seconds=self._options.lease_seconds)
        while True:
            await asyncio.sleep(self._options.lease_seconds)
            if await rebuild_lease.is_held():
                await drop_abandoned_tables(rebuild_lease)

    # ---- events ------------------------------------------------------------------------------

    async def follow(self) -> None:
        await prepare_views(self._database, self._source, self._lease, self._projection)
        self._projection.add_pools()
        await self._take_snapshots(self._projection.positions)
        await self._audit(thorough=True)
        self._on_active()
        self._following = True
        while True:
            await self._round()

    async def _take_snapshots(self, pools: Iterable[str]) -> None:
        """Begin with what lives where neither archive nor stream has the beginning."""
        positions = self._projection.positions
        for pool in [pool for pool in pools if pool != CATALOGUE and not positions[pool].seq]:
            if not (first_seq := await truncated_start(self._source, pool)):
                if stopped(positions[pool]) and not positions[pool].generation:
                    await self._set_statuses({pool: OK})  # what could not be begun with is gone
                continue
            try:
                snapshot = await take_snapshot(self._source, pool)
            except SnapshotFailed as error:
                await self._set_statuses({pool: str(error)})
                continue
            for damage in snapshot.damaged:  # first: once begun, nobody looks at all of it again
                await self._park(pool, damage)
            start_from = partial(self._projection.start_from, snapshot=snapshot)
            applied = await self._lease.write(start_from)
            self._mark_committed(applied)
            log.warning("projection.started_from_snapshot", pool=pool, complete_from=first_seq)

    async def _round(self) -> None:
        running = {p: at for p, at in self._projection.positions.items() if not stopped(at)}
        entries = await self._source.wait(running, count=self._count(len(running)))
        audit_due = time.monotonic() - self._audited_at > self._options.audit_seconds
        if (not entries or audit_due) and await self._audit():
            return  # a recovery has taken in what was read, or found it void
        positions = self._projection.positions
        # Of a log that the audit stopped nothing is taken: that would say that it goes on.
        entries = {pool: some for pool, some in entries.items() if not stopped(positions[pool])}
        if not entries:
            return
        await self._learn_generations(entries)
        batches = await self._lease.write(lambda c: self._apply(c, entries))
        for applied in batches:
            self._mark_committed(applied)
        newly_stopped = [taken.position for taken in batches if stopped(taken.position)]
        lost = await self._find_rewritten(newly_stopped)
        if not await self._handle_lost(lost):
            await self._set_statuses(lost)
        await self._take_snapshots(self._projection.add_pools())

    def _count(self, streams: int) -> int:
        """Entries of each stream to ask for: fewer where many pools may answer at once."""
        return max(min(self._options.batch, 10 * self._options.batch // max(streams, 1)), 1)

    def _apply(
        self, connection: Connection, entries: Mapping[str, Sequence[Entry]]
    ) -> list[AppliedBatch]:
        applied = []
        for pool, pool_entries in entries.items():
            rows = read_entries(self._projection.positions[pool], pool_entries)
            applied.append(self._projection.write(connection, pool, rows))
        return applied

    def _mark_committed(self, applied: AppliedBatch) -> None:
        self._projection.mark_committed(applied)
        self._on_batch(applied)

    async def _learn_generations(self, entries: Mapping[str, object]) -> None:
        unknown = [pool for pool in entries if not self._projection.positions[pool].generation]
        if unknown:
            for pool, head in (await self._source.heads(unknown)).items():
                self._projection.learn_generation(pool, head.generation)

    # ---- is it still the log that was seen? ---------------------------------------------------

    async def _audit(self, *, thorough: bool = False) -> bool:
        """Compare where the logs stand with the checkpoints, and stop at what cannot be.

        True: logs were recovered, and all is to be read from where they go on.
        `thorough`: stopped pools too, and whether the last event taken is still the one there.
        """
        positions = self._projection.positions
        watched = {
            pool: at
            for pool, at in positions.items()
            if at.generation and (thorough or not stopped(at))
        }
        intact = await self._source.intact(watched)
        found = {
            pool: describe_damage(watched[pool], head, intact=intact[pool]) or OK
            for pool, head in (await self._source.heads(watched)).items()
        }
        if thorough:
            healthy = [positions[pool] for pool, status in found.items() if status == OK]
            found |= await self._find_rewritten(healthy)
        self._audited_at = time.monotonic()
        if await self._handle_lost({pool: why for pool, why in found.items() if why != OK}):
            return True
        await self._set_statuses(
            {p: status for p, status in found.items() if status != positions[p].status}
        )
        return False

    async def _set_statuses(self, statuses: Mapping[str, str]) -> None:
        """Let pools stop, or go on, with these statuses."""
        if statuses:
            set_status = self._projection.set_status
            for applied in await self._lease.write(
                lambda c: [set_status(c, *change) for change in statuses.items()]
            ):
                self._mark_committed(applied)

    async def _find_rewritten(self, positions: Iterable[Position]) -> dict[str, str]:
        """Logs that have another event where our last one was taken, and why that is so."""
        found = {at.pool: await rewritten(self._source, self._database, at) for at in positions}
        return {pool: reason for pool, reason in found.items() if reason}

    async def _handle_lost(self, found: Mapping[str, str]) -> bool:
        """Close logs that lost events; recover them, if that is wanted, and answer True then.

        Nobody else may notice: a log that has grown past what was lost is above every floor. And
        what is written to it meanwhile can never be archived.
        """
        for pool, reason in found.items():
            if await halt_generation(
                self._log, pool, self._projection.positions[pool].generation, reason
            ):
                log.error("log.lost", pool=pool, reason=reason)
        if not found or not self._options.auto_recover:
            return False
        await self._recover()
        return True

    async def _recover(self) -> None:
        """Write the damaged logs anew, and go on from there."""
        actor = f"projector:{self._options.name}"
        recovery = Recovery(
            self._database,
            self._source,
            self._lease,
            retention=self._options.retention,
            actor=actor,
            on_stage=_log_stage,
        )
        self._following = False
        await recovery.run()
        await self._database.read(self._projection.load)
        await self._take_snapshots(self._projection.add_pools())
        self._following = True

    # ---- trimming ----------------------------------------------------------------------------

    async def trim_streams(self) -> None:
        """Let leave Redis what is archived and old, now and then."""
        trimmer = Trimmer(self._database, self._source, self._lease, self._options.retention)
        while True:
            await asyncio.sleep(self._options.trim_seconds)
            await trimmer.run_once(self._projection.positions.values())

    # ---- heartbeats --------------------------------------------------------------------------

    async def follow_heartbeats(self) -> None:
        """Gather what workers say of themselves, and write it now and then."""
        reader = Reader(self._options.redis_url, block_seconds=self._options.audit_seconds)
        try:
            positions = await self._database.read(heartbeats.read_positions)
            while True:
                await self._heartbeat_round(reader, positions)
                await asyncio.sleep(self._options.heartbeat_seconds)
        finally:
            await reader.close()

    async def _heartbeat_round(self, reader: Reader, positions: dict[str, str]) -> None:
        pools = {
            self._source.keys.pool(pool, "heartbeats"): pool
            for pool in self._projection.positions
            if pool != CATALOGUE
        }
        after = {stream: positions.get(pool, "0") for stream, pool in pools.items()}
        found = await reader.read(after, count=self._count(len(pools)))
        batch = heartbeats.gather({pools[stream]: some for stream, some in found.items()})
        if not batch.positions:
            return
        self._unreadable_heartbeats.report(batch.unreadable)
        await self._lease.write(lambda c: heartbeats.write(c, batch))
        positions.update(batch.positions)

    async def _park(self, pool: str, damage: Unreadable) -> None:
        """Park an agent that cannot be read; the fold does not wait for that.

        (A worker like that is declared lost by the supervisors.)
        """
        try:
            if damage.kind == "agent":
                await self._log.park(pool, damage)
        except LogUnreachable:
            raise
        except LogError as error:
            log.warning("projector.not_parked", pool=pool, source=damage.kind, error=str(error))


def _log_stage(stage: Stage) -> None:
    if not stage.seconds_left:
        log.warning("projector.recovering", stage=stage.doing, pool=stage.pool)
