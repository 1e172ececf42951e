"""All views from the log again: archive first, then the streams, beside the views that serve.

A rebuild folds into a second set of tables while the projector goes on. Only for the last stretch
does it take the projector's lease: it compares the new with the old where both are at the same
position, reads the streams to their end, and puts the new rows in the place of the old in one
transaction, so that no query ever sees an empty or half-built view. The serving tables keep their
identity: views, grants and dashboards built on them stay. Then the projector takes its lease back
and goes on from the new checkpoints.

A pool whose beginning was lost with an earlier database cannot be folded: it stays as it is, or is
begun with what lives where the views were of another version.

What an interrupted rebuild left behind is dropped by the active projector, or by the next rebuild.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection

from eventstore.errors import LogError, MusterError
from eventstore.keys import CATALOGUE
from projector.fold.projection import Projection, read_positions, stopped
from projector.intake.source import (
    LogHead,
    Source,
    archive_heads,
    first_generation,
    first_seq,
    read_archive,
)
from projector.rebuild.lease import acquire_rebuild_lease, drop_and_release
from projector.rebuild.progress import OnProgress, Progress
from projector.rebuild.view_sets import (
    copy_serving,
    create_shadow,
    read_version,
    switch,
)
from projector.store.database import Database
from projector.store.lease import LEASE_SECONDS, Lease, Superseded
from projector.store.rows import EventRow, Position
from projector.store.tables import SERVING, SHADOW, VIEW_VERSION
from projector.verify.view_comparison import Comparison, compare

COPIED_REASON: Final = "the beginning of its log is gone, so it stays as it is"
CATCH_UP_PASSES_MAX: Final = 10
"""How often the archive's end is looked for again before the projector's lease is taken."""


class RebuildFenced(MusterError):
    """Something else took over while this rebuild stood still; the views were left as they are."""


class LogDamaged(LogError):
    """The log cannot be folded to its end; the views that serve were left as they are."""


class RebuildOptions(Struct, frozen=True, kw_only=True):
    redis_url: str
    database_url: str
    key_prefix: str = ""
    batch: int = 2000
    """Events in one transaction."""
    lease_seconds: float = LEASE_SECONDS
    """As the projectors have it."""


async def replay(options: RebuildOptions, on_progress: OnProgress) -> Progress:
    """Rebuild all views, on a running system or without one; answers what was done.

    Raises `Rebuilding`, `RebuildFenced`, `LogDamaged`, `LogUnreachable` and whatever the database
    raises.
    """
    database = Database(options.database_url, connections=2)
    source = Source(options.redis_url, options.key_prefix)
    database.open()
    try:
        await database.prepare()
        rebuild = Rebuild(
            database,
            source,
            batch=options.batch,
            lease_seconds=options.lease_seconds,
            on_progress=on_progress,
        )
        projector_lease = Lease(database, seconds=options.lease_seconds)
        try:
            await rebuild.run(projector_lease, tolerant=False)
        finally:
            await projector_lease.release()
        return rebuild.progress
    except Superseded as error:
        raise RebuildFenced from error
    finally:
        await source.close()
        await database.close()


class Rebuild:
    """One rebuild, in steps: `begin`, `fold_archive`, `finish`, and `end` in any case.

    `run` takes them all, while whoever holds the projector's lease goes on.
    """

    def __init__(
        self,
        database: Database,
        source: Source,
        *,
        batch: int = 2000,
        lease_seconds: float = LEASE_SECONDS,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.progress = Progress()
        self._database = database
        self._source = source
        self._batch = batch
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._shadow = Projection(SHADOW, archives=False)
        self._lease = Lease(database, "rebuild", seconds=lease_seconds)
        self._heads: dict[str, LogHead] = {}
        self._archive_heads: dict[str, LogHead] = {}
        self._first_generations: dict[str, int] = {}
        self._copied: set[str] = set()
        """Pools whose log has no beginning, and whose views are such as can stay."""

    async def run(self, projector_lease: Lease, *, tolerant: bool) -> None:
        """The whole of it; `projector` is held from the last stretch on, and not given back."""
        async with self.session():
            await self.fold_archive()
            await projector_lease.seize()
            async with projector_lease.keep_renewed():
                await self.finish(projector_lease, tolerant=tolerant)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """From `begin` to `end`, with the rebuild's lease kept. Raises `Rebuilding`."""
        try:
            await self.start()
            async with self._lease.keep_renewed():
                yield
        finally:
            await self.clean_up()

    async def start(self) -> None:
        """Make a second set of tables. Raises `Rebuilding` when another one does the same."""
        await acquire_rebuild_lease(self._lease)
        await self._lease.write(create_shadow)
        await self._refresh_heads()

    async def fold_archive(self) -> None:
        """Fold what is archived, until little is left that came in meanwhile."""
        for _ in range(CATCH_UP_PASSES_MAX):
            before = self.progress.events
            await self._fold_archives()
            if self.progress.events - before <= self._batch:
                return
            await self._refresh_heads()

    async def _fold_archives(self) -> None:
        """The catalogue first, for it names the pools."""
        await self._fold_archive(CATALOGUE)
        for pool in await self._pools():
            await self._fold_archive(pool)

    async def finish(self, projector_lease: Lease, *, tolerant: bool) -> None:
        """Under the projector's lease: fold to the end of archive and streams, and switch.

        `tolerant`: a pool whose log is damaged stops where it is, with its status, instead of
        ending it all with `LogDamaged`.
        """
        await self._refresh_heads()
        await self._fold_archives()
        await self._compare()
        for pool in (CATALOGUE, *await self._pools()):
            await self._fold_stream(pool, projector_lease)
        for pool in (CATALOGUE, *await self._pools()):  # what came meanwhile, new pools too
            await self._fold_stream(pool, projector_lease)
        if not tolerant:
            await self._require_complete()
        await self._lease.write(self._switch, also=projector_lease)
        self._update_progress(finished=True)

    async def _compare(self) -> None:
        """With the views that serve: nobody writes them now, and the archive ends where they do."""
        shadow = {p: at for p, at in self._shadow.positions.items() if p not in self._copied}

        def work(connection: Connection) -> Comparison:
            serving = read_positions(connection, SERVING)
            found = compare(connection, read_version(connection), serving, shadow)
            return replace(
                found, left_out={**found.left_out, **dict.fromkeys(self._copied, COPIED_REASON)}
            )

        self.progress = replace(self.progress, comparison=await self._database.read(work))

    async def clean_up(self) -> None:
        """Drop what was made."""
        try:
            await drop_and_release(self._lease)
        except Superseded:
            pass  # the next rebuild has made its own in their place

    async def _require_complete(self) -> None:
        """Refuse to put less in the place of more. Raises `LogDamaged`."""
        serving = await self._database.read(lambda c: read_positions(c, SERVING))
        for position in self._shadow.positions.values():
            if position.pool in self._copied:
                continue
            name = f"pool {position.pool!r}" if position.pool else "the catalogue"
            views = serving.get(position.pool, position)
            head = self._heads[position.pool]
            if stopped(position):
                raise LogDamaged(f"{name}: {position.status}")
            if position.generation == head.generation and position.seq < head.seq:
                raise LogDamaged(
                    f"{name}: seq {position.seq + 1} to {head.seq} are nowhere to be found"
                )
            if (position.generation, position.seq) < (views.generation, views.seq):
                raise LogDamaged(
                    f"{name}: archive and stream end at seq {position.seq}, the"
                    f" views are at {views.seq}"
                )

    # ---- what there is -----------------------------------------------------------------------

    async def _refresh_heads(self) -> None:
        """Where logs and archive end now."""
        self._archive_heads = await self._database.read(archive_heads)
        self._copied = await self._database.read(self._truncated_pools)
        self._first_generations = await self._database.read(
            lambda c: {pool: first_generation(c, pool) for pool in self._archive_heads}
        )
        await self._add_heads(self._archive_heads.keys() | self._shadow.positions.keys())

    def _truncated_pools(self, connection: Connection) -> set[str]:
        serving = read_positions(connection, SERVING)
        if read_version(connection) != VIEW_VERSION:
            return set()
        return {
            pool
            for pool, head in self._archive_heads.items()
            if pool != CATALOGUE
            and first_seq(connection, pool) > 1
            and (at := serving.get(pool))
            and (at.generation, at.seq) >= (head.generation, head.seq)
        }

    async def _add_heads(self, pools: set[str]) -> None:
        self._heads |= await self._source.heads(pools | {CATALOGUE})
        for pool in self._heads:
            self._set_start(pool)

    def _set_start(self, pool: str) -> None:
        """Give a pool its position: at the first event of the archive or, without, of the log."""
        known = self._shadow.positions.get(pool)
        if known is None or not known.generation:
            generation = self._first_generations.get(pool, 0) or self._heads[pool].generation
            self._shadow.positions[pool] = Position(pool, generation)

    async def _pools(self) -> list[str]:
        """Pools to fold: those of the catalogue so far, and those that only the archive knows."""
        names = self._shadow.catalogue.pools.keys() | self._archive_heads.keys()
        await self._add_heads(set(names))
        return sorted(names - {CATALOGUE} - self._copied)

    # ---- folding -----------------------------------------------------------------------------

    async def _fold_archive(self, pool: str) -> None:
        """To where the archive ended when it was looked at."""
        last = self._archive_heads.get(pool, LogHead()).seq
        while self._is_behind(pool, last):
            rows = await self._database.read(lambda c: self._archived_after(c, pool))
            if not rows or rows[0].seq != self._shadow.positions[pool].seq + 1:
                return  # a hole: perhaps the stream still has what is missing
            await self._apply(pool, rows)

    def _is_behind(self, pool: str, last: int) -> bool:
        position = self._shadow.positions[pool]
        return position.seq < last and not stopped(position)

    def _archived_after(self, connection: Connection, pool: str) -> list[EventRow]:
        rows = read_archive(connection, self._shadow.positions[pool], count=self._batch)
        first = rows[0].seq if rows else 0
        return [row for index, row in enumerate(rows) if row.seq == first + index]

    async def _fold_stream(self, pool: str, projector_lease: Lease) -> None:
        """To where the stream ended when it was looked at: what comes later the projector takes."""
        last = self._heads[pool].seq
        while self._is_behind(pool, last):
            rows = await self._source.after(self._shadow.positions[pool], count=self._batch)
            if not rows:
                return
            await self._apply(pool, rows, projector_lease)

    async def _apply(
        self, pool: str, rows: Sequence[EventRow], projector_lease: Lease | None = None
    ) -> None:
        """Under the projector's lease the rows are archived too."""
        projection = self._shadow
        projection.archives = projector_lease is not None
        before = projection.positions[pool].seq
        applied = await self._lease.write(
            lambda c: projection.write(c, pool, rows), also=projector_lease
        )
        projection.mark_committed(applied)
        self._update_progress(pool, projection.positions[pool].seq - before)

    def _update_progress(self, pool: str = "", events: int = 0, *, finished: bool = False) -> None:
        self.progress = replace(
            self.progress,
            pool=pool,
            events=self.progress.events + events,
            total=sum(head.seq for head in self._heads.values()),
            seconds=time.monotonic() - self._started,
            finished=finished,
        )
        if self._on_progress is not None:
            self._on_progress(self.progress)

    def _switch(self, connection: Connection) -> None:
        if self._copied:
            copy_serving(connection, self._copied)
        switch(connection, self._database.prefix)
