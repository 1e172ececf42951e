"""Pruning a year of ended agents, and how far the views are behind meanwhile.

On SQLite and on PostgreSQL: a part of one pool as the projector does it, which rests for most of
the time, while 200 events a second of another pool are projected; then as the command does it. The
lag is from when a batch of events is due until it is committed.
"""

import asyncio
import time
from collections.abc import Awaitable
from functools import partial
from pathlib import Path

from msgspec import Struct

from eventstore.language import events
from projector.archive.access import exclusive
from projector.archive.export import export_archive
from projector.archive.pace import Care
from projector.archive.pruning import Pruning
from projector.exports.manifest import read_manifest
from projector.fold.projection import Projection
from projector.service import archive_retention
from projector.store.database import Database
from projector.store.lease import Lease
from projector.store.rows import EventRow
from projector.store.tables import SERVING
from tests.bench import year
from tests.bench.benchmarks.million import FEW_ALERTS, written
from tests.bench.figures import Figure, Report, percentile
from tests.bench.history import postgres, sqlite_url
from tests.bench.setup import Setup
from tests.bench.year import AFTERWARDS, DAY_MS, POOLS, YEAR_MS

PRUNED, LIVE = POOLS[1], POOLS[0]
BATCH_SECONDS, AGENTS_OF_A_BATCH = 0.1, 5
"""Each has four events: 200 a second."""
QUIET_SECONDS = 15


async def run(setup: Setup) -> Report:
    ended = setup.scaled(1_000_000, 50_000)
    figures = await measured(setup, "SQLite", sqlite_url(setup.new_folder("views")), ended)
    async with postgres(setup) as url:
        figures += await measured(setup, "PostgreSQL", url, ended)
    note = f"{ended:,} ended agents; 200 events a second are projected meanwhile"
    return Report(name="prune", figures=tuple(figures), notes=(note,))


async def measured(setup: Setup, name: str, url: str, ended: int) -> list[Figure]:
    began_ms = int(time.time() * 1000) - YEAR_MS - 3_600_000
    await written(setup.new_folder("empty"), url, ended, FEW_ALERTS, began_ms)
    database = Database(url, connections=3)
    database.open()
    part = setup.scaled(100_000, 10_000)
    pruned = Year(database, setup.new_folder("export"), began_ms, part)
    lease = Lease(database)
    try:
        await lease.seize()
        live = Live(lease, began_ms)
        await live.begin()
        quiet = await live.lags(asyncio.sleep(QUIET_SECONDS))
        exported = await rate(pruned.export())
        slow: list[float] = []
        busy = await live.lags(pruned.prune_slowly(lease, slow))
        fast = await rate(pruned.prune(Care(events_max=part)))
    finally:
        await database.close()
    lag = partial(Figure, unit="ms", better="less", compared_with="while nothing is pruned")
    speed = partial(Figure, unit="events/s")
    return [
        *(
            lag(
                name=f"views behind the log while the projector prunes, p{percent}, {name}",
                ours=(percentile(busy, percent),),
                baseline=(percentile(quiet, percent),),
            )
            for percent in (50, 99)
        ),
        speed(name=f"exported, {name}", ours=(exported,)),
        speed(name=f"pruned by the projector, {name}", ours=tuple(slow)),
        speed(name=f"pruned as by the command, {name}", ours=(fast,)),
    ]


async def rate(work: Awaitable[int]) -> float:
    """Events per second."""
    began = time.perf_counter()
    return await work / (time.perf_counter() - began)


class Year(Struct, frozen=True):
    """One pool of it is exported, and pruned in parts of so many events."""

    database: Database
    folder: Path
    began_ms: int
    part: int

    async def export(self) -> int:
        return (await export_archive(self.database, self.folder, lambda _: None)).events

    async def prune_slowly(self, projector: Lease, rates: list[float]) -> None:
        care = Care(
            share=archive_retention.SHARE,
            removed=archive_retention.REMOVED,
            events_max=self.part,
            keeps_living=True,
            also=projector,
        )
        rates.append(await rate(self.prune(care)))

    async def prune(self, care: Care) -> int:
        """The next part; returns how many events left."""
        manifest = read_manifest(self.folder)
        work = Pruning(self.database, self.folder, manifest, lambda _: None, care)
        before_ms = self.began_ms + YEAR_MS - 30 * DAY_MS
        async with exclusive(self.database) as lease:
            done = await work.prune_pool(lease, PRUNED, before_ms, self.began_ms + YEAR_MS)
        assert done.events, done
        return done.events


class Live:
    """A pool whose agents go on to come and go."""

    def __init__(self, lease: Lease, began_ms: int) -> None:
        self._lease = lease
        self._projection = Projection(SERVING, archives=True)
        self._began_ms, self._ts, self._agents = began_ms, began_ms + YEAR_MS, 0
        self._worker = year.worker_of(began_ms, 0, 365)

    async def begin(self) -> None:
        """Start a worker."""
        await self._lease.database.read(self._projection.load)
        order = events.WorkerRequested("h1", 100, self._ts, "pending-spawns")
        start = events.WorkerStarted("h1", 7, 1, 100)
        await self._write([(order, self._worker, 0), (start, self._worker, 366)])

    async def lags(self, work: Awaitable[None]) -> list[float]:
        """Milliseconds of each batch for as long as something else is done."""
        found, meanwhile = [], asyncio.ensure_future(work)
        due = time.perf_counter()
        while not meanwhile.done():
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            await self._batch()
            found.append((time.perf_counter() - due) * 1000)
            due += BATCH_SECONDS
        await meanwhile
        return found

    async def _batch(self) -> None:
        batch: list[tuple[events.AnyBody, str, int]] = []
        for _ in range(AGENTS_OF_A_BATCH):
            self._agents += 1
            agent = year.id_of(self._began_ms + YEAR_MS, 0, 2 * self._agents)
            batch.append((year.requested(self._agents % year.PROJECTS), agent, 0))
            batch += [(body, agent, 366) for body in AFTERWARDS]
        await self._write(batch)

    async def _write(self, batch: list[tuple[events.AnyBody, str, int]]) -> None:
        seq, rows = self._projection.positions[LIVE].seq, []
        for body, subject, epoch in batch:
            seq, self._ts = seq + 1, self._ts + 1
            held = (self._worker, epoch) if epoch or subject == self._worker else ("", 0)
            row = year.event_row(LIVE, seq, body, subject, self._ts, "", *held)
            rows.append(EventRow(*row))
        work = partial(self._projection.write, pool=LIVE, rows=rows)
        self._projection.mark_committed(await self._lease.write(work))
