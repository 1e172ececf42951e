"""Reads logs for the projector: their ends, the next events, and the archive below the stream.

It has one connection that blocks in XREAD, and a few for short commands.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import repeat
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection

from eventstore.connection.calls import completed, refusal, translated_errors
from eventstore.connection.clients import Client
from eventstore.keys import CATALOGUE, Keys
from eventstore.log.reader import Entry, Reader
from eventstore.log.replies import LogHead
from eventstore.redis_errors import RedisError, ResponseError, TransientError
from projector.intake.archive import id_order
from projector.intake.entries import read_entries, read_entry
from projector.store.archive_starts import ArchiveStart, read_starts
from projector.store.database import Database
from projector.store.rows import EventRow, Position
from projector.store.tables import run


class Addresses(Struct, frozen=True, kw_only=True):
    """Of the logs, and of the database of their views."""

    redis_url: str
    database_url: str
    key_prefix: str = ""


@asynccontextmanager
async def opened(
    of: Addresses, *, connections: int = 2, block_seconds: float = 5.0, prepare: bool = True
) -> AsyncIterator[tuple[Database, "Source"]]:
    """A database, and the logs of which it has the views. `prepare`: create its tables."""
    database = Database(of.database_url, connections=connections)
    source = Source(of.redis_url, of.key_prefix, block_seconds=block_seconds)
    database.open()
    try:
        if prepare:
            await database.prepare()
        yield database, source
    finally:
        await completed(_close(source, database))


async def _close(source: "Source", database: Database) -> None:
    await source.close()
    await database.close()


class Source:
    """Reads the streams of every pool."""

    def __init__(self, redis_url: str, key_prefix: str, *, block_seconds: float = 5.0) -> None:
        self.url = redis_url
        self.keys = Keys(key_prefix)
        self.client = Client(redis_url)
        self.reader = Reader(redis_url, block_seconds=block_seconds)

    async def close(self) -> None:
        await self.reader.close()
        await self.client.aclose()

    def stream(self, pool: str) -> str:
        return self.keys.pool(pool, "events")

    def meta(self, pool: str) -> str:
        return self.keys.pool(pool, "meta")

    async def heads(self, pools: Iterable[str]) -> dict[str, LogHead]:
        """The ends of these logs, read in one pipeline. Raises `LogUnreachable`."""
        names = list(pools)
        fields = LogHead.__struct_fields__
        replies = await self.ask([("HMGET", self.meta(pool), *fields) for pool in names])
        return dict(zip(names, map(LogHead.of, replies), strict=True))

    async def intact(self, pools: Iterable[str]) -> dict[str, bool]:
        """Whether all streams of these logs exist. Raises `LogUnreachable`."""
        streams = {pool: [self.stream(pool)] for pool in pools}
        for pool in streams.keys() - {CATALOGUE}:
            streams[pool].append(self.keys.pool(pool, "commands"))
        counts = await self.ask([("EXISTS", *some) for some in streams.values()])
        return {pool: len(streams[pool]) == n for pool, n in zip(streams, counts, strict=True)}

    async def created(self, pools: Iterable[str]) -> set[str]:
        """Those whose log was created, according to the catalogue's meta hash."""
        names = list(pools)
        if not names:
            return set()
        fields = [f"made:{pool}" for pool in names]
        (marks,) = await self.ask([("HMGET", self.meta(CATALOGUE), *fields)])
        return {pool for pool, mark in zip(names, marks, strict=True) if mark is not None}

    async def ask(self, commands: Sequence[tuple[str, ...]], *, atomic: bool = False) -> list[Any]:
        """The replies to some commands; `atomic`: in one transaction, an error as a reply too.

        Raises `LogUnreachable`, and `LogError` where Redis refuses a command for good.
        """
        with translated_errors("Redis refuses to be read"):
            replies = await self.client.execute_all(commands, atomic=atomic)
            for command, reply in zip(commands, replies, strict=True):
                final = isinstance(reply, ResponseError) and not isinstance(reply, TransientError)
                if isinstance(reply, RedisError) and not (final and atomic):
                    raise type(reply)(f"{reply} ({' '.join(command[:2])})")
        return replies

    async def ask_with_seq(
        self, pool: str, commands: Sequence[tuple[str, ...]]
    ) -> tuple[int, list[Any]]:
        """The `seq` of a log, and the replies as of then; for a refused command its error."""
        with_seq = [("HGET", self.meta(pool), "seq"), *commands]
        seq, *replies = await self.ask(with_seq, atomic=True)
        if isinstance(seq, ResponseError):
            raise refusal("Redis refuses to be read", seq)
        return int(seq or 0), replies

    async def wait(
        self, positions: Mapping[str, Position], *, count: int
    ) -> dict[str, list[Entry]]:
        """Entries after these positions, by pool, once there are any; none after a timeout."""
        pools = {self.stream(pool): pool for pool in positions}
        after = {self.stream(pool): at.stream_id for pool, at in positions.items()}
        found = await self.reader.read(after, count=count)
        return {pools[stream]: entries for stream, entries in found.items()}

    async def after(self, position: Position, *, count: int) -> list[EventRow]:
        """The events that the stream has after a position now."""
        first = "-" if position.stream_id in ("0", "") else f"({position.stream_id}"
        entries = await self.reader.range(self.stream(position.pool), first, count=count)
        return read_entries(position, entries)


_AFTER: Final = (
    "SELECT {} FROM {{}}events"
    " WHERE pool = ? AND generation = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
)
_NOT_FOLDED: Final = ("causation_id", "traceparent", "actor")
"""What no fold needs of an event."""
_LATER: Final = "SELECT min(generation) FROM {}events WHERE pool = ? AND generation > ?"


def read_archive(
    connection: Connection,
    position: Position,
    *,
    count: int,
    last: int = 2**63 - 1,
    folded: bool = False,
) -> list[EventRow]:
    """Archived events after a position, up to seq `last`; in later generations too.

    A generation starts where the archive of the one before it ended, so `seq` orders all of them.
    `folded`: they are only folded.
    """
    rows: list[EventRow] = []
    generation: int | None = position.generation
    while generation is not None and len(rows) < count:
        # One generation at a time: else all of it up to the position would be read.
        known = {"pool": position.pool, "generation": generation}
        known |= dict.fromkeys(_NOT_FOLDED if folded else (), "")
        names = [name for name in EventRow.__struct_fields__ if name not in known]
        of_generation = (position.pool, generation, position.seq, last, count - len(rows))
        found = run(connection, _AFTER.format(", ".join(names)), *of_generation).all()
        if found:  # column by column: that is faster than row by row
            columns: dict[str, Iterable[Any]] = {n: repeat(value) for n, value in known.items()}
            columns |= zip(names, zip(*found, strict=True), strict=True)
            rows += map(EventRow, *(columns[name] for name in EventRow.__struct_fields__))
        if len(rows) < count:
            generation = run(connection, _LATER, position.pool, generation).scalar()
    return rows


class Archived(Struct, frozen=True):
    """The oldest and the newest archived event of a pool, the newest of its highest generation."""

    first: LogHead = LogHead()
    last: LogHead = LogHead()


_ENDS: Final = "SELECT pool, {} FROM pools".format(
    ", ".join(
        f"(SELECT {column} FROM {{}}events e WHERE e.pool = pools.pool"
        f" ORDER BY generation {order}, seq {order} LIMIT 1)"
        for order in ("ASC", "DESC")
        for column in ("generation", "seq")
    )
)
"""Along the primary key, instead of a scan of all rows."""
_ONE: Final = f"WITH pools(pool) AS (SELECT CAST(? AS TEXT)) {_ENDS}"
_ALL: Final = f"""
WITH RECURSIVE pools(pool) AS (
    SELECT min(pool) FROM {{}}events
    UNION ALL
    SELECT (SELECT min(e.pool) FROM {{}}events e WHERE e.pool > pools.pool)
    FROM pools WHERE pool IS NOT NULL
) {_ENDS} WHERE pool IS NOT NULL
"""


def archived(connection: Connection, pools: Iterable[str] | None = None) -> dict[str, Archived]:
    """Of some pools (None: of all) those of which anything is archived."""
    found: list[Any] = []
    for statement, *values in [(_ALL,)] if pools is None else [(_ONE, pool) for pool in pools]:
        found += run(connection, statement, *values)
    return {
        pool: Archived(LogHead(*ends[:2]), LogHead(*ends[2:]))
        for pool, *ends in found
        if ends[0] is not None
    }


class Archive:
    """The archived events of all logs, as folds read them. Methods run in a transaction."""

    def starts(self, connection: Connection) -> dict[str, ArchiveStart]:
        """With what pruned logs begin, by pool."""
        return read_starts(connection)

    def events(
        self,
        connection: Connection,
        position: Position,
        *,
        count: int,
        last: int = 2**63 - 1,
        folded: bool = False,
    ) -> list[EventRow]:
        """As `read_archive`."""
        return read_archive(connection, position, count=count, last=last, folded=folded)

    def ends(
        self, connection: Connection, pools: Iterable[str] | None = None
    ) -> dict[str, Archived]:
        """As `archived`."""
        return archived(connection, pools)


LOSS_PREFIXES: Final = ("missing: ", "halted: ", "rolled back: ", "rewritten: ", "generation ")
"""Prefixes of the reasons that call for a recovery, and of no others."""


def describe_damage(position: Position, head: LogHead, *, intact: bool = True) -> str:
    """Why a log that ends at `head` cannot be projected further; empty if it can."""
    if head.generation == 0:
        return f"missing: the log is gone; the views are at seq {position.seq}"
    if not intact:
        return f"missing: streams of the log are gone; the views are at seq {position.seq}"
    if head.halted:
        return f"halted: {head.halted}"
    replaced = (
        position.generation and head.generation > position.generation and head.seq <= position.seq
    )
    # A log that was recovered goes on with an event that says so.
    if head.generation < position.generation or replaced:
        return f"generation {head.generation} replaced generation {position.generation}"
    if head.seq < position.seq:
        return f"rolled back: the log ends at seq {head.seq}, the views at {position.seq}"
    return ""


def is_lost(status: str) -> bool:
    """Whether a status says that the views are stopped until their log is recovered."""
    return status.startswith(LOSS_PREFIXES)


async def rewritten(source: Source, database: Database, position: Position) -> str:
    """Whether the stream has another event at the last projected position; empty if not."""
    if not position.seq:
        return ""
    stream, entry_id = source.stream(position.pool), position.stream_id
    entries = await source.reader.range(stream, entry_id, entry_id, count=1)
    if not entries:
        first = await source.reader.range(stream, count=1)
        trimmed = not first or id_order(first[0][0].decode()) > id_order(entry_id)
        return "" if trimmed else f"rewritten: the event at seq {position.seq} is gone"
    streamed = read_entry(position.pool, position.generation, entries[0])
    before = Position(position.pool, 0, position.seq - 1)
    stored = await database.read(lambda c: read_archive(c, before, count=1, last=position.seq))
    same = not stored or stored[-1].event_id == streamed.event_id
    if same and streamed.seq == position.seq:
        return ""
    return f"rewritten: another event at seq {position.seq}"
