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
from projector.fold.projection import Projection, Taken, read_positions, stopped
from projector.intake.source import (
    Head,
    Source,
    archive_heads,
    archived,
    first_generation,
    first_seq,
)
from projector.rebuild.lease import take_rebuild_lease
from projector.rebuild.progress import Progress, Report
from projector.rebuild.view_sets import (
    carry,
    drop_fresh,
    let_go_on,
    make_fresh,
    read_version,
    switch,
)
from projector.store.database import Database
from projector.store.lease import LEASE_SECONDS, Lease, Superseded
from projector.store.rows import EventRow, Position
from projector.store.tables import BESIDE, SERVING, VIEW_VERSION
from projector.verify.view_comparison import Comparison, compare

STAYS: Final = "the beginning of its log is gone, so it stays as it is"
APPROACHES_MAX: Final = 10
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


async def replay(options: RebuildOptions, report: Report) -> Progress:
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
            report=report,
        )
        projector = Lease(database, seconds=options.lease_seconds)
        try:
            await rebuild.run(projector, tolerant=False)
        finally:
            await projector.release()
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
        report: Report | None = None,
    ) -> None:
        self.progress = Progress()
        self._database = database
        self._source = source
        self._batch = batch
        self._report = report
        self._since = time.monotonic()
        self._beside = Projection(BESIDE, archives=False)
        self._lease = Lease(database, "rebuild", seconds=lease_seconds)
        self._heads: dict[str, Head] = {}
        self._archived: dict[str, Head] = {}
        self._began: dict[str, int] = {}
        self._carried: set[str] = set()
        """Pools whose log has no beginning, and whose views are such as can stay."""

    async def run(self, projector: Lease, *, tolerant: bool) -> None:
        """The whole of it; `projector` is held from the last stretch on, and not given back."""
        async with self.making():
            await self.fold_archive()
            await projector.seize()
            async with projector.kept():
                await self.finish(projector, tolerant=tolerant)

    @asynccontextmanager
    async def making(self) -> AsyncIterator[None]:
        """From `begin` to `end`, with the rebuild's lease kept. Raises `Rebuilding`."""
        try:
            await self.begin()
            async with self._lease.kept():
                yield
        finally:
            await self.end()

    async def begin(self) -> None:
        """Make a second set of tables. Raises `Rebuilding` when another one does the same."""
        await take_rebuild_lease(self._lease)
        await self._database.write(self._make_tables)
        await self._look()

    async def fold_archive(self) -> None:
        """Fold what is archived, until little is left that came in meanwhile."""
        for _ in range(APPROACHES_MAX):
            before = self.progress.events
            await self._fold_archives()
            if self.progress.events - before <= self._batch:
                return
            await self._look()

    async def _fold_archives(self) -> None:
        """The catalogue first, for it names the pools."""
        await self._fold_archive(CATALOGUE)
        for pool in await self._pools():
            await self._fold_archive(pool)

    async def finish(self, projector: Lease, *, tolerant: bool) -> None:
        """Under the projector's lease: fold to the end of archive and streams, and switch.

        `tolerant`: a pool whose log is damaged stops where it is, with its status, instead of
        ending it all with `LogDamaged`.
        """
        await self._look()
        await self._fold_archives()
        await self._compare()
        await self._database.write(lambda connection: self._let_go_on(connection, projector))
        for pool in (CATALOGUE, *await self._pools()):
            await self._fold_stream(pool, projector)
        for pool in (CATALOGUE, *await self._pools()):  # what came meanwhile, new pools too
            await self._fold_stream(pool, projector)
        if not tolerant:
            await self._demand_whole()
        await self._database.write(lambda connection: self._switch(connection, projector))
        self._tell(finished=True)

    async def _compare(self) -> None:
        """With the views that serve: nobody writes them now, and the archive ends where they do."""
        beside = {p: at for p, at in self._beside.positions.items() if p not in self._carried}

        def work(connection: Connection) -> Comparison:
            serving = read_positions(connection, SERVING)
            found = compare(connection, read_version(connection), serving, beside)
            return replace(
                found, left_out={**found.left_out, **dict.fromkeys(self._carried, STAYS)}
            )

        self.progress = replace(self.progress, comparison=await self._database.read(work))

    async def end(self) -> None:
        """Drop what was made."""

        def clean(connection: Connection) -> None:
            self._lease.hold(connection)
            drop_fresh(connection)
            self._lease.give_back(connection)

        try:
            await self._database.write(clean)
        except Superseded:
            pass  # the next rebuild has made its own in their place

    async def _demand_whole(self) -> None:
        """Refuse to put less in the place of more. Raises `LogDamaged`."""
        serving = await self._database.read(lambda c: read_positions(c, SERVING))
        for at in self._beside.positions.values():
            if at.pool in self._carried:
                continue
            name = f"pool {at.pool!r}" if at.pool else "the catalogue"
            views = serving.get(at.pool, at)
            head = self._heads[at.pool]
            if stopped(at):
                raise LogDamaged(f"{name}: {at.status}")
            if at.generation == head.generation and at.seq < head.seq:
                raise LogDamaged(f"{name}: seq {at.seq + 1} to {head.seq} are nowhere to be found")
            if (at.generation, at.seq) < (views.generation, views.seq):
                raise LogDamaged(
                    f"{name}: archive and stream end at seq {at.seq}, the views are at {views.seq}"
                )

    # ---- what there is -----------------------------------------------------------------------

    async def _look(self) -> None:
        """Where logs and archive end now."""
        self._archived = await self._database.read(archive_heads)
        self._carried = await self._database.read(self._without_beginning)
        self._began = await self._database.read(
            lambda c: {pool: first_generation(c, pool) for pool in self._archived}
        )
        await self._find_heads(self._archived.keys() | self._beside.positions.keys())

    def _without_beginning(self, connection: Connection) -> set[str]:
        serving = read_positions(connection, SERVING)
        if read_version(connection) != VIEW_VERSION:
            return set()
        return {
            pool
            for pool, head in self._archived.items()
            if pool != CATALOGUE
            and first_seq(connection, pool) > 1
            and (at := serving.get(pool))
            and (at.generation, at.seq) >= (head.generation, head.seq)
        }

    async def _find_heads(self, pools: set[str]) -> None:
        self._heads |= await self._source.heads(pools | {CATALOGUE})
        for pool in self._heads:
            self._place(pool)

    def _place(self, pool: str) -> None:
        """Give a pool its position: at the first event of the archive or, without, of the log."""
        known = self._beside.positions.get(pool)
        if known is None or not known.generation:
            generation = self._began.get(pool, 0) or self._heads[pool].generation
            self._beside.positions[pool] = Position(pool, generation)

    async def _pools(self) -> list[str]:
        """Pools to fold: those of the catalogue so far, and those that only the archive knows."""
        names = self._beside.catalogue.pools.keys() | self._archived.keys()
        await self._find_heads(set(names))
        return sorted(names - {CATALOGUE} - self._carried)

    # ---- folding -----------------------------------------------------------------------------

    async def _fold_archive(self, pool: str) -> None:
        """To where the archive ended when it was looked at."""
        last = self._archived.get(pool, Head()).seq
        while self._goes_on(pool, last):
            rows = await self._database.read(lambda c: self._archived_after(c, pool))
            if not rows or rows[0].seq != self._beside.positions[pool].seq + 1:
                return  # a hole: perhaps the stream still has what is missing
            await self._take(pool, rows, None)

    def _goes_on(self, pool: str, last: int) -> bool:
        at = self._beside.positions[pool]
        return at.seq < last and not stopped(at)

    def _archived_after(self, connection: Connection, pool: str) -> list[EventRow]:
        rows = archived(connection, self._beside.positions[pool], count=self._batch)
        first = rows[0].seq if rows else 0
        return [row for index, row in enumerate(rows) if row.seq == first + index]

    async def _fold_stream(self, pool: str, projector: Lease) -> None:
        """To where the stream ended when it was looked at: what comes later the projector takes."""
        last = self._heads[pool].seq
        while self._goes_on(pool, last):
            rows = await self._source.after(self._beside.positions[pool], count=self._batch)
            if not rows:
                return
            await self._take(pool, rows, projector)

    async def _take(self, pool: str, rows: Sequence[EventRow], projector: Lease | None) -> None:
        """`projector`: its lease, under which the rows are archived too."""
        projection = self._beside
        projection.archives = projector is not None

        def work(connection: Connection) -> Taken:
            if projector is not None:
                projector.hold(connection)
            self._lease.hold(connection)
            return projection.write(connection, pool, rows)

        before = projection.positions[pool].seq
        projection.keep(await self._database.write(work))
        self._tell(pool, projection.positions[pool].seq - before)

    def _tell(self, pool: str = "", events: int = 0, *, finished: bool = False) -> None:
        self.progress = replace(
            self.progress,
            pool=pool,
            events=self.progress.events + events,
            total=sum(head.seq for head in self._heads.values()),
            seconds=time.monotonic() - self._since,
            finished=finished,
        )
        if self._report is not None:
            self._report(self.progress)

    # ---- tables ------------------------------------------------------------------------------

    def _make_tables(self, connection: Connection) -> None:
        self._lease.hold(connection)
        drop_fresh(connection)
        make_fresh(connection)

    def _let_go_on(self, connection: Connection, projector: Lease) -> None:
        """Should this end before the switch, what it archives is folded by who serves."""
        projector.hold(connection)
        let_go_on(connection)

    def _switch(self, connection: Connection, projector: Lease) -> None:
        projector.hold(connection)
        self._lease.hold(connection)
        if self._carried:
            carry(connection, self._carried)
        switch(connection, self._database.prefix)
