"""Holds views and Redis against an independent fold of the log, on a running system.

Each log is folded from its first event. Where it has reached the views' position, rows are
compared with it in one transaction of the database; what the projector added meanwhile is folded
from the archive as that transaction sees it. Then Redis is compared in pieces: each piece and the
log's `seq` are read at one moment (MULTI), and the fold goes on to exactly that `seq` first. So
everything is compared at one position, however fast the system moves.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import asdict
from sqlalchemy import Connection, Table, select

from eventstore.errors import WrongType
from eventstore.keys import CATALOGUE
from projector.fold.projection import read_positions, stopped
from projector.intake.archive import after
from projector.intake.event_range import Trail
from projector.intake.source import Source, archive_heads, archived, first_generation
from projector.store.database import Database
from projector.store.mapping import Record, agent_record, host_record, pool_record, worker_record
from projector.store.rows import EventRow, Position
from projector.store.tables import SERVING
from projector.verify.redis_state import RedisComparison
from projector.verify.reference_fold import Broken, Witness
from projector.verify.report import Checked, Findings, Report

BATCH: Final = 1000


async def verify(redis_url: str, key_prefix: str, database_url: str) -> Report:
    """Compare everything. Raises `LogUnreachable` and whatever the database raises."""
    database = Database(database_url, connections=1)
    source = Source(redis_url, key_prefix)
    database.open()
    try:
        await database.prepare()
        return await _Verification(database, source).run()
    finally:
        await source.close()
        await database.close()


class _Verification:
    def __init__(self, database: Database, source: Source) -> None:
        self._database = database
        self._source = source
        self._findings = Findings()
        trail = Trail(source.keys, source.reader.range, self._archived)
        self._redis = RedisComparison(source, trail, self._findings)

    async def run(self) -> Report:
        archives = await self._database.read(archive_heads)
        catalogue = await self._verify(CATALOGUE)
        viewed = await self._database.read(lambda c: read_positions(c, SERVING))
        known = viewed.keys() | archives.keys() | catalogue.catalogue.pools.keys()
        pools = sorted(known - {CATALOGUE})
        await self._redis.scan(pools)
        for pool in pools:
            await self._verify(pool)
        return self._findings.report()

    async def _verify(self, pool: str) -> Witness:
        views = await self._database.read(lambda c: read_positions(c, SERVING))
        first = await self._database.read(lambda c: first_generation(c, pool))
        try:
            head = (await self._source.heads([pool]))[pool]  # after the views: never behind them
        except WrongType:
            self._differ(pool, "log", "meta", "a hash", "another type")
            return Witness(pool, first)
        witness = Witness(pool, first or head.generation)
        at = views.get(pool, Position(pool))
        if head.generation and at.generation > head.generation:
            self._differ(pool, "log", "generation", at.generation, head.generation)
            return witness
        if stopped(at):
            self._differ(pool, "views", "status", "ok", at.status)
        try:
            await self._fold(witness, at.seq)
            views_seq = await self._database.read(lambda c: self._compare_views(c, witness))
            await self._redis.compare(witness, head)
        except (Broken, WrongType) as error:
            self._differ(pool, "log", "events", "a dense and readable log", str(error))
        else:
            self._findings.checked.append(Checked(pool, views_seq, witness.position.seq))
        self._findings.events += witness.position.seq
        return witness

    async def _archived(
        self, pool: str, stream_id: str, until: str, count: int
    ) -> Sequence[EventRow]:
        return await self._database.read(
            lambda c: after(c, pool, stream_id, until=until, count=count)
        )

    def _differ(self, pool: str, where: str, field: str, expected: Any, found: Any) -> None:
        self._findings.differ(where, pool, "log", field, expected, found)

    # ---- folding up to the views -------------------------------------------------------------

    async def _fold(self, witness: Witness, last: int) -> None:
        while witness.position.seq < last:
            at = witness.position
            ours = await self._database.read(lambda c: archived(c, at, count=BATCH, last=last))  # noqa: B023
            theirs = await self._source.after(at, count=BATCH)
            rows = [row for row in theirs if row.seq <= last]
            if not rows or rows[0].seq != at.seq + 1:  # trimmed: the archive has it
                first = rows[0].seq if rows else last + 1
                rows = [row for row in ours if row.seq < first]
            self._compare_archive(witness.pool, rows, ours)
            witness.take(rows, last=last)
            if witness.position.seq == at.seq:
                raise Broken(f"gap: seq {at.seq + 1} is neither in the stream nor in the archive")

    def _compare_archive(self, pool: str, rows: list[EventRow], ours: list[EventRow]) -> None:
        """The archive holds, word for word, what the stream holds."""
        kept = {row.seq: row for row in ours}
        for row in rows:
            found = kept.get(row.seq)
            if found == row:
                continue
            event = f"event {row.seq}"
            self._findings.compare(
                "archive", pool, event, asdict(row), asdict(found) if found else None
            )

    # ---- the views ---------------------------------------------------------------------------

    def _compare_views(self, connection: Connection, witness: Witness) -> int:
        """Compare the rows of a pool with the fold, at the position of this transaction."""
        at = read_positions(connection, SERVING).get(witness.pool, Position(witness.pool))
        while witness.position.seq < at.seq:
            rows = archived(connection, witness.position, count=BATCH, last=at.seq)
            if not rows:
                raise Broken(f"gap: seq {witness.position.seq + 1} is not in the archive")
            witness.take(rows, last=at.seq)
        if witness.pool == CATALOGUE:
            pools, hosts = witness.catalogue.pools, witness.catalogue.hosts
            self._compare_rows(connection, SERVING.pools, "", map(pool_record, pools.values()))
            self._compare_rows(connection, SERVING.hosts, "", map(host_record, hosts.values()))
            return at.seq
        crowd, alone = witness.crowd(), witness.alone()
        workers = (
            worker_record(w, crowd[w.worker_id], alone.get(w.worker_id, ""))
            for w in witness.workers.values()
        )
        agents = (agent_record(a, at.generation) for a in witness.agents.values())
        self._compare_rows(connection, SERVING.workers, witness.pool, workers)
        self._compare_rows(connection, SERVING.agents, witness.pool, agents)
        return at.seq

    def _compare_rows(
        self, connection: Connection, table: Table, pool: str, expected: Iterator[Record]
    ) -> None:
        key = next(iter(table.primary_key)).name
        wanted = {record[key]: record for record in expected}
        for row in _rows(connection, table, key, pool):
            subject = f"{table.name}/{row[key]}"
            record = wanted.pop(row[key], None)
            if record is None:
                self._findings.unexpected("views", pool, subject)
            else:
                self._findings.compare("views", pool, subject, record, row)
        for missing, record in wanted.items():
            self._findings.compare("views", pool, f"{table.name}/{missing}", record, None)


def _rows(connection: Connection, table: Table, key: str, pool: str) -> Iterator[Mapping[str, Any]]:
    """All rows of a pool, a page at a time."""
    after = ""
    while True:
        chosen = select(table).where(table.c[key] > after).order_by(table.c[key]).limit(BATCH)
        if pool:
            chosen = chosen.where(table.c.pool_name == pool)
        page = connection.execute(chosen).mappings().all()
        yield from (dict(row) for row in page)
        if len(page) < BATCH:
            return
        after = page[-1][key]
