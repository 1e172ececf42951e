"""The work of the active projector: it follows events and heartbeats, renews its lease, and trims.

Each of its transactions proves the lease first. Where the views cannot be continued from their
checkpoints, they are first caught up or rebuilt (`projector/rebuild/startup.py`).
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

import structlog

from eventstore.errors import LogError, LogUnreachable, Unreadable
from eventstore.keys import CATALOGUE
from eventstore.log.log import Log
from eventstore.log.notices import UNAVAILABLE
from eventstore.log.reader import Reader
from eventstore.recovery.restore import halt_generation
from projector.fold import heartbeats
from projector.fold.projection import AppliedBatch, Projection, stopped
from projector.fold.snapshot import SnapshotFailed, take_snapshot, truncated_start
from projector.intake.entries import OK, read_entries
from projector.intake.source import Source
from projector.rebuild.startup import prepare_views
from projector.rebuild.view_sets import drop_abandoned_tables
from projector.recovery.damage_scan import rewritten_logs, statuses
from projector.recovery.recovery import Recovery, Stage
from projector.service.alerts import AlertArchive
from projector.service.archive_retention import ArchiveRetention
from projector.service.ended_rows import remove_regularly
from projector.service.forecasts import Forecasts
from projector.service.gathering import Gathering
from projector.service.metrics import ProjectorMetrics
from projector.service.notices import Notices
from projector.service.options import ProjectorOptions
from projector.service.state_copies import StateCopies
from projector.service.trimming import Trimmer
from projector.store.lease import Lease
from projector.store.tables import SERVING

log = structlog.get_logger("muster.projector")

DELETED_TURNS: Final = 60
"""Deleted pools are trimmed in one of so many passes."""
RENEWAL_TIMEOUT_LEASES: Final = 5
"""For so many leases a renewal waits for PostgreSQL, and for our own transaction before it."""


class Active:
    """One term. Its loops run until one of them fails; `on_batch` is called after every commit."""

    def __init__(
        self,
        options: ProjectorOptions,
        source: Source,
        lease: Lease,
        notices: Notices,
        metrics: ProjectorMetrics | None,
        on_active: Callable[[], None],
        on_batch: Callable[[AppliedBatch], None],
    ) -> None:
        self._options = options
        self._notices = notices
        self._metrics = metrics
        self._on_active = on_active
        self._on_batch = on_batch
        self.database = lease.database
        self._source = source
        self._lease = lease
        self._log = Log(source.client, source.keys)
        self._projection = Projection(SERVING, archives=True)
        self._audited_at = time.monotonic()
        self._following = False
        self._gathering = Gathering()
        self._states = StateCopies(self._log, lease, options.name)

    # ---- the loops ---------------------------------------------------------------------------

    async def renew_lease(self) -> None:
        """Raises `TimeoutError` where PostgreSQL does not answer: a proxy can drop an answer.

        SQLite always answers, and a switch or a recovery may write for any time.
        """
        seconds = self._options.lease_seconds
        while True:
            if (pause := self._lease.renewal_due_seconds) > 0:
                await asyncio.sleep(pause)
                continue
            bounded = self._following and not self.database.sqlite
            async with asyncio.timeout(RENEWAL_TIMEOUT_LEASES * seconds if bounded else None):
                await self._lease.renew()

    async def copy_states(self) -> None:
        """Copy what agents save into the database."""
        await self._states.follow()

    async def clean_up_rebuilds(self) -> None:
        """Drop the tables of rebuilds that died."""
        rebuild_lease = Lease(self.database, "rebuild", seconds=self._options.lease_seconds)
        while True:
            await asyncio.sleep(5 * self._options.lease_seconds)
            if await rebuild_lease.is_held():
                await drop_abandoned_tables(rebuild_lease)

    async def trim_streams(self) -> None:
        """Regularly remove from Redis what is archived and old."""
        trimmer = Trimmer(self._source, self._lease, self._options.retention)
        try:
            for turn in itertools.count():
                await asyncio.sleep(self._options.trim_seconds)
                live = self._live()
                positions = [
                    at
                    for number, at in enumerate(self._projection.positions.values())
                    if at.pool in live or (number + turn) % DELETED_TURNS == 0
                ]
                await trimmer.run_once(positions, self._projection.catalogue)
        finally:
            await trimmer.close()

    async def store_alerts(self) -> None:
        """Store what gateways have written of alerts."""
        alerts = AlertArchive(self._source, self._lease, self._options.retention)
        await alerts.follow(self._options.alert_seconds)

    async def remove_ended(self) -> None:
        """Regularly remove from the views what ended long ago."""
        now_ms, options = partial(self._log.now_ms, CATALOGUE), self._options
        await remove_regularly(
            self._lease, options.retention.views_ms, now_ms, options.ended_seconds
        )

    async def retain_archive(self) -> None:
        """Regularly export and remove events that are older than the retention of the archive."""
        options = self._options
        retention = ArchiveRetention(
            self._lease,
            self._log,
            options.retention,
            options.archive_dir,
            self._notices,
            self._metrics,
            options.name,
        )
        await retention.follow(self._projection, options.prune_seconds)

    async def publish_forecasts(self) -> None:
        """As each step of a forecast begins."""
        forecasts = Forecasts(self._source, self.database)
        await forecasts.run(self._options.forecast_seconds, self._projection)

    async def follow_heartbeats(self) -> None:
        """Write the newest heartbeat of each worker to the live tables, every few seconds."""
        reader = Reader(self._options.redis_url, block_seconds=self._options.audit_seconds)
        unreadable = heartbeats.UnreadableLog()
        try:
            positions = await self.database.read(heartbeats.read_positions)
            while True:
                batch, is_full = await self._read_heartbeats(reader, positions)
                if batch.positions:
                    unreadable.report(batch.unreadable)
                    await self._lease.write(partial(heartbeats.write, batch=batch))
                    positions.update(batch.positions)
                await asyncio.sleep(0 if is_full else self._options.heartbeat_seconds)
        finally:
            await reader.close()

    async def _read_heartbeats(
        self, reader: Reader, positions: Mapping[str, str]
    ) -> tuple[heartbeats.HeartbeatBatch, bool]:
        """What came, and whether there may be more at once."""
        known = self._live() - {CATALOGUE}
        pools = {self._source.keys.pool(pool, "heartbeats"): pool for pool in known}
        after = {stream: positions.get(pool, "0") for stream, pool in pools.items()}
        count = self._options.count(len(pools))
        found = await reader.read(after, count=count)
        is_full = any(len(some) >= count for some in found.values())
        return heartbeats.gather({pools[stream]: some for stream, some in found.items()}), is_full

    async def follow(self) -> None:
        """Follow the events of all logs."""
        await prepare_views(self._source, self._lease, self._projection)
        await self._take_snapshots([CATALOGUE])  # which names the pools
        self._projection.add_pools()
        await self._take_snapshots(self._projection.positions)
        await self._check_logs(thorough=True)
        await self._states.start()
        if self._metrics is not None:
            self._metrics.begin_term(self._log, self._lease, self._projection)
        self._on_active()
        await self._notices.withdraw(UNAVAILABLE)
        self._following = True
        while True:
            await self._round()

    # ---- events ------------------------------------------------------------------------------

    async def _round(self) -> None:
        running = {p: at for p, at in self._projection.positions.items() if not stopped(at)}
        count = self._options.count(len(running.keys() & self._live()))
        entries = await self._source.wait(running, count=count)
        audit_due = time.monotonic() - self._audited_at > self._options.audit_seconds
        if (not entries or audit_due) and await self._check_logs():
            return  # a recovery has applied these entries, or voided them
        positions = self._projection.positions
        # To apply entries of a log that the audit stopped would mark it as going on.
        entries = {pool: some for pool, some in entries.items() if not stopped(positions[pool])}
        if not entries:
            return
        if self._metrics is not None:
            await self._log.refresh_clocks([CATALOGUE])  # no other log is behind its time
        await self._learn_generations(entries)
        write = self._projection.write
        batches = await self._lease.write(
            lambda c: [
                write(c, pool, read_entries(positions[pool], some))
                for pool, some in entries.items()
            ]
        )
        for applied in batches:
            self._mark_committed(applied)
            if self._metrics is not None:
                now_ms = self._log.now_ms(applied.position.pool)
                self._metrics.events.count(applied, now_ms)
        newly_stopped = [applied.position for applied in batches if stopped(applied.position)]
        lost = await rewritten_logs(self._source, self.database, newly_stopped)
        if not await self._handle_lost(lost):
            await self._set_statuses(lost)
        if CATALOGUE in entries:
            await self._take_snapshots(self._projection.add_pools())
        pause = self._gathering.pause_seconds(map(len, entries.values()), count, time.monotonic())
        await asyncio.sleep(pause)

    def _live(self) -> set[str]:
        """The catalogue and the pools there are; deleted ones are read too, but have no share."""
        positions, pools = self._projection.positions, self._projection.catalogue.pools
        return {p for p in positions if p not in pools or not pools[p].deleted}

    def _mark_committed(self, applied: AppliedBatch) -> None:
        self._projection.mark_committed(applied)
        self._states.note(applied.state.agents.values())
        self._on_batch(applied)

    async def _learn_generations(self, entries: Mapping[str, object]) -> None:
        unknown = [pool for pool in entries if not self._projection.positions[pool].generation]
        if unknown:
            for pool, head in (await self._source.heads(unknown)).items():
                self._projection.learn_generation(pool, head.generation)

    async def _set_statuses(self, statuses: Mapping[str, str]) -> None:
        """Stop pools, or let them go on, with these statuses."""
        if statuses:
            set_status = self._projection.set_status
            for applied in await self._lease.write(
                lambda c: [set_status(c, *change) for change in statuses.items()]
            ):
                self._mark_committed(applied)

    # ---- pools whose first events are gone ---------------------------------------------------

    async def _take_snapshots(self, pools: Iterable[str]) -> None:
        """Start from Redis' hashes where neither archive nor stream has the first events."""
        positions = self._projection.positions
        for pool in [pool for pool in pools if not positions[pool].seq]:
            if not (first_seq := await truncated_start(self._source, pool)):
                if stopped(positions[pool]) and not positions[pool].generation:
                    await self._set_statuses({pool: OK})  # the unreadable stream is gone
                continue
            try:
                snapshot = await take_snapshot(self._source, pool)
            except SnapshotFailed as error:
                await self._set_statuses({pool: str(error)})
                continue
            for damage in snapshot.damaged:  # first: all hashes are read this once only
                await self._park(pool, damage)
            start_from = partial(self._projection.start_from, snapshot=snapshot)
            self._mark_committed(await self._lease.write(start_from))
            log.warning("projection.started_from_snapshot", pool=pool, complete_from=first_seq)

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

    # ---- lost logs ---------------------------------------------------------------------------

    async def _check_logs(self, *, thorough: bool = False) -> bool:
        """Compare logs and checkpoints, and stop pools whose log cannot be projected further.

        True: logs were recovered, and all streams are to be read again from the new positions.
        """
        positions = self._projection.positions
        found = await statuses(self._source, self.database, positions, thorough=thorough)
        self._audited_at = time.monotonic()
        if await self._handle_lost({pool: why for pool, why in found.items() if why != OK}):
            return True
        await self._set_statuses(
            {p: status for p, status in found.items() if status != positions[p].status}
        )
        return False

    async def _handle_lost(self, found: Mapping[str, str]) -> bool:
        """Close logs that lost events, and recover them where that is wanted. True: it was done.

        No other process may notice: a log that has grown past its loss is above every high-water
        mark. And what is still written to it can never be archived.
        """
        for pool, reason in found.items():
            generation = self._projection.positions[pool].generation
            if await halt_generation(self._log, pool, generation, reason):
                log.error("log.lost", pool=pool, reason=reason)
        if not found or not self._options.auto_recover:
            return False
        actor, retention = f"projector:{self._options.name}", self._options.retention
        self._following = False
        await Recovery(self._source, self._lease, retention, actor, _log_stage).run()
        await self.database.read(self._projection.load)
        await self._take_snapshots(self._projection.add_pools())
        self._following = True
        return True


def _log_stage(stage: Stage) -> None:
    if not stage.seconds_left:
        log.warning("projector.recovering", stage=stage.doing, pool=stage.pool)
