"""Rebuilds all views from the log: the archive first, then the streams, while the old views serve.

A rebuild folds into shadow tables while the projector goes on. It acquires the projector's lease
only at its end: then it compares new and old views where both are at the same position, reads the
streams to their end, and replaces the old rows by the new ones in one transaction, so that no query
ever sees an empty or half-built view. The serving tables stay, and so do the views, grants and
dashboards that others built on them. Afterwards the projector acquires its lease again and goes on
from the new checkpoints.

A pool whose archive was pruned begins with the snapshot at that position, or with an export of what
came before. One whose first events were lost with an earlier database cannot be folded: its views
are copied or, where they are of another version, started from a snapshot of Redis.

The active projector, or the next rebuild, drops the tables that an interrupted rebuild left.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection

from eventstore.errors import MusterError
from eventstore.keys import CATALOGUE
from projector.fold.projection import AppliedBatch, Projection, read_positions
from projector.fold.snapshot import stored_snapshot
from projector.intake.source import Addresses, Archive, Archived, Source, opened
from projector.rebuild import view_sets
from projector.rebuild.archive_fold import apply_archive, is_behind
from projector.rebuild.bounds import COPIED_REASON, LogBounds
from projector.store.database import Database
from projector.store.ended import ended_before, remove_agents, remove_workers
from projector.store.lease import LEASE_SECONDS, Lease, Superseded
from projector.store.rows import Position
from projector.store.tables import SERVING, SHADOW, VIEW_VERSION
from projector.verify.view_comparison import Comparison, compare


class Progress(Struct, frozen=True, kw_only=True):
    """Events folded of those that the logs have, and the time since the start."""

    pool: str = ""
    events: int = 0
    total: int = 0
    seconds: float = 0.0
    finished: bool = False
    comparison: Comparison = Comparison()
    """With the serving views, once they were compared."""

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None while it is unknown."""
        return max(self.total - self.events, 0) / self.rate if self.rate else None


OnProgress = Callable[[Progress], None]


CATCH_UP_PASSES_MAX: Final = 10
"""How often the archive's new end is folded before the projector's lease is acquired."""
SHORT_PASS_SECONDS: Final = 0.5
"""What is added while such a pass folds is soon folded under that lease."""


class RebuildFenced(MusterError):
    """Another process took over while this rebuild was stopped; the views were not changed."""


class RebuildOptions(Addresses, frozen=True, kw_only=True):
    batch: int = 2000
    """Events in one transaction."""
    lease_seconds: float = LEASE_SECONDS
    """The same as that of the projectors."""


async def replay(
    options: RebuildOptions,
    on_progress: OnProgress,
    archive: Archive = Archive(),  # noqa: B008  (it has no state)
) -> Progress:
    """Rebuild all views, whether the system runs or not; returns the final progress.

    Raises `RebuildInProgress`, `RebuildFenced`, `LogDamaged`, `LogUnreachable`, `DatabaseError`.
    """
    async with opened(options) as (database, source):
        seconds = options.lease_seconds
        rebuild = Rebuild(database, source, options.batch, seconds, on_progress, archive)
        projector_lease = Lease(database, seconds=seconds)
        try:
            await rebuild.run(projector_lease, tolerant=False)
        except Superseded as error:
            raise RebuildFenced from error
        finally:
            await projector_lease.release()
        return rebuild.progress


class Rebuild:
    """One rebuild, in steps: `start`, `fold_archive`, `finish`. `run` does them all."""

    def __init__(
        self,
        database: Database,
        source: Source,
        batch: int = 2000,
        lease_seconds: float = LEASE_SECONDS,
        on_progress: OnProgress = lambda _: None,
        archive: Archive = Archive(),  # noqa: B008  (it has no state)
    ) -> None:
        self.progress = Progress()
        self._database = database
        self._source = source
        self._batch = batch
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._shadow = Projection(SHADOW, archives=False, empty=True)
        self._archive = archive
        self._bounds = LogBounds(database, source, self._shadow, archive)
        self._lease = Lease(database, "rebuild", seconds=lease_seconds)
        self._equal_at: dict[str, Position] = {}
        """The positions at which the serving views were found equal, if they were."""

    async def run(self, projector_lease: Lease, *, tolerant: bool, seize: bool = True) -> None:
        """All steps, while the holder of the projector's lease goes on.

        `seize`: take that lease before the last step; it is not released. Drops the shadow tables
        in any case. Raises `RebuildInProgress`.
        """
        try:
            await self.start()
            async with self._lease.keep_renewed():
                await self.fold_archive()
                if seize:
                    await projector_lease.seize()
                async with projector_lease.keep_renewed():
                    await self.finish(projector_lease, tolerant=tolerant)
        finally:
            if not self.progress.finished:
                with suppress(Superseded):  # the next rebuild has replaced the tables by its own
                    await view_sets.drop_and_release(self._lease)

    async def start(self) -> None:
        """Create the shadow tables. Raises `RebuildInProgress` while another rebuild runs."""
        await view_sets.acquire_rebuild_lease(self._lease)
        await self._lease.write(view_sets.create_shadow)
        await self._bounds.refresh()
        for start in self._bounds.starts.values():
            snapshot = await self._database.read(partial(stored_snapshot, start=start))
            begin = partial(self._shadow.start_from, snapshot=snapshot)
            self._shadow.mark_committed(await self._lease.write(begin))

    async def fold_archive(self) -> None:
        """Fold the archive, until that takes too short a time for many events to be added."""
        for _ in range(CATCH_UP_PASSES_MAX):
            began = time.monotonic()
            await self._fold_archives()
            if time.monotonic() - began <= SHORT_PASS_SECONDS:
                return
            await self._bounds.refresh()

    async def finish(self, projector_lease: Lease, *, tolerant: bool) -> None:
        """Under the projector's lease: fold to the end of archive and streams, and switch.

        `tolerant`: a pool whose log is damaged stops there, with its status. Otherwise all is left
        as it was, with `LogDamaged`.
        """
        await self._bounds.refresh()
        await self._fold_archives()
        await self._remove_ended(projector_lease)
        await self._compare()
        for _ in range(2):  # again: events and pools that were added meanwhile
            for pool in (CATALOGUE, *await self._bounds.pools()):
                await self._fold_stream(pool, projector_lease)
        switch = partial(self._switch, tolerant=tolerant)
        await self._lease.write(switch, also=projector_lease)
        self._update_progress(finished=True)

    async def _remove_ended(self, projector_lease: Lease) -> None:
        """From both sets: what ended long ago need not be in views, and is not compared."""
        read, before_ms = self._database.read, await self._database.read(ended_before)
        same_version = await read(view_sets.read_version) == VIEW_VERSION
        for tables in (SERVING, SHADOW) if same_version else (SHADOW,):
            for remove in (remove_agents, remove_workers):
                some = partial(remove, before_ms=before_ms, tables=tables)
                while before_ms and await self._lease.write(some, also=projector_lease):
                    pass

    async def _compare(self) -> None:
        """With the serving views: no process writes them now, and they are at the archive's end."""
        skipped, shadow = dict.fromkeys(self._bounds.copied, COPIED_REASON), self._shadow.positions

        def work(connection: Connection) -> Comparison:
            version = view_sets.read_version(connection)
            existing = self._database.existing(connection)
            serving = read_positions(connection, SERVING)
            return compare(connection, existing, version, serving, shadow, skipped)

        found = await self._database.read(work)
        self.progress = replace(self.progress, comparison=found)
        self._equal_at = dict(shadow) if found.equal else {}

    def _switch(self, connection: Connection, *, tolerant: bool) -> None:
        if not tolerant:
            self._bounds.require_complete(connection)
        if self._bounds.copied:
            view_sets.copy_serving(connection, self._bounds.copied)
        equal = self._shadow.positions == self._equal_at
        view_sets.switch(connection, self._database.prefix, equal=equal)
        view_sets.drop_and_release_in(connection, self._lease)

    # ---- folding -----------------------------------------------------------------------------

    async def _fold_archives(self) -> None:
        """To its last known end. The catalogue first: it names the pools."""
        await self._fold_archive(CATALOGUE)
        for pool in await self._bounds.pools():
            await self._fold_archive(pool)

    async def _fold_archive(self, pool: str) -> None:
        if pool in self._bounds.copied:
            return
        last, shadow = self._bounds.archived.get(pool, Archived()).last.seq, self._shadow
        shadow.archives = False
        of = (self._database, shadow, pool, last, self._batch, self._store)
        await apply_archive(*of, self._update_progress, self._archive)

    async def _fold_stream(self, pool: str, projector_lease: Lease) -> None:
        """To the last known end of the stream: later events are left to the projector.

        They are archived too.
        """
        last, shadow = 0, self._shadow
        if pool not in self._bounds.copied:
            last = self._bounds.heads[pool].seq
        shadow.archives = True
        while is_behind(at := shadow.positions[pool], last) and (
            rows := await self._source.after(at, count=self._batch)
        ):
            applied = await self._database.read(partial(shadow.apply, pool=pool, rows=rows))
            await self._store(applied, projector_lease)
            self._update_progress(pool, shadow.positions[pool].seq - at.seq)

    async def _store(self, applied: AppliedBatch, projector_lease: Lease | None = None) -> None:
        store = partial(self._shadow.store, applied=applied)
        await self._lease.write(store, also=projector_lease)
        self._shadow.mark_committed(applied)

    def _update_progress(self, pool: str = "", events: int = 0, *, finished: bool = False) -> None:
        self.progress = replace(
            self.progress,
            pool=pool,
            events=self.progress.events + events,
            total=self._bounds.total,
            seconds=time.monotonic() - self._started,
            finished=finished,
        )
        self._on_progress(self.progress)
