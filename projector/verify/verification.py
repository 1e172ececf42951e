"""Compares views and Redis with an independent fold of the log, on a running system.

Each log is folded from its first event, or from the snapshot with which a pruned one begins. Where
the fold has reached the views' position, their rows
are compared in one transaction of the database; events that the projector added meanwhile are first
folded from the archive, as that transaction sees it. Then Redis is compared in pieces: each piece
is read together with the log's `seq` (MULTI), and the fold is first brought to exactly that `seq`.
So everything is compared at one position, however fast the system moves.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from msgspec.structs import asdict
from sqlalchemy import Connection, Table, select, true

from eventstore.errors import WrongType
from eventstore.keys import CATALOGUE
from projector.fold.projection import read_positions, stopped
from projector.intake.archive import EventRange, after
from projector.intake.source import (
    Addresses,
    Archive,
    Archived,
    Source,
    opened,
)
from projector.store import agent_states, archive_starts
from projector.store.archive_starts import ArchiveStart, SnapshotDamaged, read_starts
from projector.store.database import Database
from projector.store.ended import agent_gone, ended_before, row_gone, worker_gone
from projector.store.mapping import (
    Record,
    agent_record,
    chunks,
    host_record,
    pool_record,
    token_record,
    worker_record,
)
from projector.store.rows import Position
from projector.store.tables import SERVING
from projector.verify.redis_state import RedisComparison
from projector.verify.reference_fold import BrokenLog, ReferenceFold
from projector.verify.report import CheckedPool, Report
from projector.verify.usage_comparison import compare_usage

BATCH: Final = 1000


async def verify(
    redis_url: str,
    key_prefix: str,
    database_url: str,
    archive: Archive = Archive(),  # noqa: B008  (it has no state)
) -> Report:
    """Compare everything. Raises `LogUnreachable` and `DatabaseError`."""
    of = Addresses(redis_url=redis_url, key_prefix=key_prefix, database_url=database_url)
    async with opened(of, connections=1) as (database, source):
        return await _Verification(database, source, archive).run()


class _Verification:
    def __init__(self, database: Database, source: Source, archive: Archive) -> None:
        self._archive = archive
        self._start: ArchiveStart | None = None
        """That of the log that is folded now, if it was pruned."""
        self._ended_before = 0
        self._database = database
        self._source = source
        self._report = Report()
        event_range = EventRange(
            source.keys, source.reader.range, lambda *at: database.read(lambda c: after(c, *at))
        )
        self._removed: set[str] = set()
        """Pools that the catalogue does not have any more: Redis need not have their logs."""
        self._redis = RedisComparison(source, event_range, self._report)

    async def run(self) -> Report:
        ends = await self._database.read(self._archive.ends)
        catalogue = await self._verify(CATALOGUE)
        positions = await self._database.read(lambda c: read_positions(c, SERVING))
        known = positions.keys() | ends.keys() | catalogue.catalogue.pools.keys()
        pools = sorted(known - {CATALOGUE})
        self._removed = set(pools) - catalogue.catalogue.pools.keys()
        await self._redis.scan(pools)
        for pool in pools:
            await self._verify(pool)
        return self._report

    async def _verify(self, pool: str) -> ReferenceFold:
        report, of_log = self._report, ("log", pool, "log")
        views = await self._database.read(lambda c: read_positions(c, SERVING))
        ends = await self._database.read(lambda c: self._archive.ends(c, [pool]))
        first = ends.get(pool, Archived()).first.generation
        try:
            head = (await self._source.heads([pool]))[pool]  # after the views: not behind
        except WrongType:
            report.add(of_log, "meta", "a hash", "another type")
            return ReferenceFold(pool, first)
        reference = ReferenceFold(pool, first or head.generation)
        position = views.get(pool, Position(pool))
        if head.generation and position.generation > head.generation:
            report.add(of_log, "generation", position.generation, head.generation)
            return reference
        if stopped(position):
            report.add(("views", pool, "log"), "status", "ok", position.status)
        try:
            await self._begin(reference)
            await self._fold(reference, position.seq)
            views_seq = await self._database.read(lambda c: self._compare_views(c, reference))
            if head.generation or pool not in self._removed:
                await self._redis.compare(reference, exists=bool(head.generation))
        except (BrokenLog, WrongType) as error:
            if await self._database.read(lambda c: read_starts(c).get(pool)) != self._start:
                return await self._verify(pool)  # it was pruned meanwhile
            report.add(of_log, "events", "a dense and readable log", str(error))
        except SnapshotDamaged as error:
            report.add(("archive", pool, "snapshot"), "sha256", "as it was written", str(error))
        else:
            report.pools.append(CheckedPool(pool, views_seq, reference.position.seq))
        report.events += reference.position.seq - reference.began_at
        return reference

    async def _begin(self, reference: ReferenceFold) -> None:
        """A pruned log begins with its snapshot; where an export has it all, both are compared.

        Raises `SnapshotDamaged`.
        """
        pool = reference.pool
        start = self._start = await self._database.read(lambda c: read_starts(c).get(pool))
        if start is None:
            return
        entries = await self._database.read(partial(archive_starts.read_entries, start=start))
        if pool in await self._database.read(self._archive.starts):
            reference.start_from(start, entries)
            return
        await self._fold(reference, start.seq)
        subject, found = ("archive", pool, "snapshot"), reference.entries()
        agents, workers = archive_starts.agents_of, archive_starts.workers_of
        self._report.compare_members(subject, agents(found), agents(entries))
        self._report.compare_members(subject, workers(found), workers(entries))
        sums, stored = ({e.name: e.state for e in some if e.kind == archive_starts.USAGE}
                        for some in (found, entries))  # fmt: skip
        self._report.compare_members(subject, sums, stored)

    async def _fold(self, reference: ReferenceFold, last: int) -> None:
        """Up to the views. The archive must have each event exactly as the stream has it."""
        while (at := reference.position).seq < last:
            stored = await self._database.read(
                partial(self._archive.events, position=at, count=BATCH, last=last)
            )
            rows = [row for row in await self._source.after(at, count=BATCH) if row.seq <= last]
            if not rows or rows[0].seq != at.seq + 1:  # trimmed: the archive has it
                first = rows[0].seq if rows else last + 1
                rows = [row for row in stored if row.seq < first]
            archived = {row.seq: row for row in stored}
            for row in rows:
                if (found := archived.get(row.seq)) != row:
                    subject = ("archive", at.pool, f"event {row.seq}")
                    self._report.compare(subject, asdict(row), asdict(found) if found else None)
            reference.apply(rows, last=last)

    # ---- the views ---------------------------------------------------------------------------

    def _compare_views(self, connection: Connection, reference: ReferenceFold) -> int:
        """Compare the rows of a pool with the fold, at the position of this transaction."""
        pool, views = reference.pool, SERVING
        position = read_positions(connection, views).get(pool, Position(pool))
        self._ended_before = ended_before(connection)
        while reference.position.seq < position.seq:
            at = reference.position
            rows = self._archive.events(connection, at, count=BATCH, last=position.seq)
            reference.apply(rows, last=position.seq)
        if pool == CATALOGUE:
            folded = reference.catalogue
            by_name = {name: pool_record(one) for name, one in folded.pools.items()}
            self._compare_rows(connection, views.pools, "", by_name.get, by_name)
            by_name = {name: host_record(one) for name, one in folded.hosts.items()}
            self._compare_rows(connection, views.hosts, "", by_name.get, by_name)
            by_name = {one.name: token_record(one) for one in folded.tokens.values()}
            self._compare_rows(connection, views.tokens, "", by_name.get, by_name)
            return position.seq
        agent_counts, isolated = reference.agent_counts(), reference.isolated()

        def worker(name: str) -> Record | None:
            found = reference.workers.get(name)
            count, alone = agent_counts[name], isolated.get(name, "")
            return None if found is None else worker_record(found, count, alone)

        def agent(name: str) -> Record | None:
            found = reference.agents.get(name)
            return None if found is None else agent_record(found, position.generation)

        def worker_left(name: str) -> bool:
            found = reference.workers.get(name)
            return found is None or worker_gone(found, agent_counts[name], self._ended_before)

        def agent_left(name: str) -> bool:
            found = reference.agents.get(name)
            return found is None or agent_gone(found, self._ended_before)

        workers, agents = reference.workers.names(), reference.agents.names()
        self._compare_rows(connection, views.workers, pool, worker, workers, worker_left)
        self._compare_rows(connection, views.agents, pool, agent, agents, agent_left)
        self._compare_states(connection, reference)
        compare_usage(connection, reference.usage, position.ts, self._report)
        return position.seq

    def _compare_states(self, connection: Connection, reference: ReferenceFold) -> None:
        """The copies of what agents saved: each is whole, and of an agent that has a state."""
        for name, sha256, state in agent_states.of_pool(connection, reference.pool):
            subject = ("views", reference.pool, f"agent_states/{name}")
            found = reference.agents.get(name)
            if found is None or not found.state_sha256:
                self._report.add(subject, "presence", "absent", "present")
            elif (actual := hashlib.sha256(state).hexdigest()) != sha256:
                self._report.add(subject, "sha256", sha256, actual)

    def _compare_rows(
        self,
        connection: Connection,
        table: Table,
        pool: str,
        expected: Callable[[str], Record | None],
        names: Iterable[str],
        left: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """The rows of a pool with those `expected` by their names.

        `left`: of what ended so long ago that its row need not be there.
        """
        key = next(iter(table.primary_key))
        for row in _rows(connection, table, key.name, pool):
            name = row[key.name]
            if not (row_gone(row, self._ended_before) and left(name)):
                subject = ("views", pool, f"{table.name}/{name}")
                self._report.compare(subject, expected(name), row)
        of_pool = table.c.pool_name == pool if pool else true()
        for some in chunks(names, BATCH):
            present = set(connection.execute(select(key).where(key.in_(some), of_pool)).scalars())
            for missing in set(some) - present:
                if left(missing):
                    continue
                subject = ("views", pool, f"{table.name}/{missing}")
                self._report.compare(subject, expected(missing), None)


def _rows(connection: Connection, table: Table, key: str, pool: str) -> Iterator[Mapping[str, Any]]:
    """All rows of a pool, a page at a time."""
    after = ""
    while True:
        query = select(table).where(table.c[key] > after).order_by(table.c[key]).limit(BATCH)
        if pool:
            query = query.where(table.c.pool_name == pool)
        page = connection.execute(query).mappings().all()
        yield from (dict(row) for row in page)
        if len(page) < BATCH:
            return
        after = page[-1][key]
