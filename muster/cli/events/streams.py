"""Reads the logs for people: many streams merged into one, in order of time.

The streams are read from a position on; older events come from the archive, where a database is
configured. Events that exist at the start are merged by time; later ones follow as they come.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from eventstore.connection.backoff import Backoff
from eventstore.errors import LogUnreachable
from eventstore.keys import CATALOGUE as LOG
from eventstore.log.log import Log
from eventstore.log.reader import Entry
from muster.cli.arguments.command import print_note
from muster.cli.events.lines import CATALOGUE, RecordedEvent, recorded_event

if TYPE_CHECKING:
    from projector.intake.source import Source
    from projector.queries.views import Views

MISSING = "the log is missing"
RECOVERY_HINT = "`muster recover --dry-run` says more, `muster recover` recovers it"
CHUNK = 500
BACKOFF_SECONDS = (0.2, 2.0)


class Streams:
    """The streams of some pools; `positions` has the id that was read last, by pool.

    `archive`: the views' database, for trimmed events; None where none is configured.
    """

    def __init__(self, source: "Source", archive: "Views | None" = None) -> None:
        from projector.queries.views import EventRange

        self._source, self._reader, self._archive = source, source.reader, archive
        read_archive = archive.archived if archive else None
        self._event_range = EventRange(source.keys, source.reader.range, read_archive)
        self._problems: dict[str, str] = {}
        self.positions: dict[str, str] = {}
        self._seqs: dict[str, int] = {}
        """The `seq` that was read last of each stream."""

    def stream(self, pool: str) -> str:
        return self._source.stream(_log(pool))

    async def pools(self) -> list[str]:
        """The names of the pools, deleted ones too, from the catalogue."""
        snapshot = await Log(self._source.client, self._source.keys).catalogue_snapshot()
        names: dict[str, None] = dict.fromkeys(snapshot.pools)
        after, stream = "-", self.stream(CATALOGUE)
        while entries := await self._reader.range(stream, after, count=CHUNK):
            for entry in entries:
                event = recorded_event(CATALOGUE, entry)
                if event.fields.get("type") == "pool.created":
                    names[event.fields["subject"]] = None
            after = f"({entries[-1][0].decode()}"
        return list(names)

    async def problems(self, pools: Collection[str]) -> dict[str, str]:
        """Which of these logs are missing or halted, by pool."""
        names = [_log(pool) for pool in pools]
        # Asked first: a log that is created between the two calls is not missing.
        existing = {LOG, *await self._source.created([name for name in names if name != LOG])}
        heads, intact = await self._source.heads(names), await self._source.intact(names)
        found: dict[str, str] = {}
        for pool, name in zip(pools, names, strict=True):
            if not intact[name] and name in existing:
                found[pool] = MISSING
            elif heads[name].halted:
                found[pool] = f"the log is halted: {heads[name].halted}"
        return found

    async def print_problems(self) -> None:
        """Print each log that is missing or halted, once, and when it is available again."""
        found = await self.problems(self.positions)
        for pool, problem in found.items():
            if self._problems.get(pool) != problem:
                print_note(f"{pool}: {problem}; {RECOVERY_HINT}")
        for pool in self._problems.keys() - found.keys():
            print_note(f"{pool}: the log is available again")
        self._problems = found

    # ---- existing events ---------------------------------------------------------------------

    async def read_until(self, until: Mapping[str, str]) -> AsyncIterator[RecordedEvent]:
        """All events after `positions` up to the ids of `until`, merged by time."""
        queues: dict[str, deque[RecordedEvent]] = {pool: deque() for pool in self.positions}
        unread = {pool for pool in self.positions if until[pool] != "0"}
        while True:
            for pool in [pool for pool in unread if not queues[pool]]:
                position, last = self.positions[pool], until[pool]
                page = await self._event_range.after(_log(pool), position, until=last, count=CHUNK)
                queues[pool].extend(self._consume(pool, page))
                if not page:
                    unread.discard(pool)
            heads = [queue[0] for queue in queues.values() if queue]
            if not heads:
                return
            first = min(heads, key=lambda event: (event.ms, event.pool, event.seq))
            queues[first.pool].popleft()
            yield first

    def _consume(self, pool: str, entries: Sequence[Entry]) -> list[RecordedEvent]:
        """Decode entries and advance the position of their stream."""
        found = [recorded_event(pool, entry) for entry in entries]
        if found:
            self.positions[pool], self._seqs[pool] = found[-1].stream_id, found[-1].seq
        return found

    async def newest(
        self, until: Mapping[str, str], count: int, matches: Callable[[RecordedEvent], bool]
    ) -> list[RecordedEvent]:
        """The last `count` matching events, oldest first; moves `positions` to `until`."""
        found: list[RecordedEvent] = []
        for pool in self.positions:
            found += await self._newest(pool, until[pool], count, matches)
        self.positions.update(until)
        found.sort(key=lambda event: (event.ms, event.pool, event.seq))
        return found[-count:] if count else []

    async def _newest(
        self, pool: str, last: str, count: int, matches: Callable[[RecordedEvent], bool]
    ) -> list[RecordedEvent]:
        matching: list[RecordedEvent] = []
        while len(matching) < count and last != "0":
            entries = await self._older(pool, last)
            matching += filter(matches, (recorded_event(pool, entry) for entry in entries))
            last = f"({entries[-1][0].decode()}" if entries else "0"
        return matching[:count]

    async def _older(self, pool: str, last: str) -> Sequence[Entry]:
        """A page of entries up to an id (before it where it starts with `(`), newest first."""
        from projector.intake.entries import entry_of
        from projector.queries.views import DatabaseError

        entries = await self._reader.newest(self.stream(pool), last, count=CHUNK)
        if entries or self._archive is None:
            return entries
        try:
            rows = await self._archive.archived_before(_log(pool), last.removeprefix("("), CHUNK)
        except DatabaseError:
            print_note(f"{pool}: older events are in the archive, which is unreachable")
            return []
        return [entry_of(row) for row in rows]

    async def ends(self) -> dict[str, str]:
        """The id of the last entry of each stream, `0` where it is empty."""
        found: dict[str, str] = {}
        for pool in self.positions:
            entries = await self._reader.newest(self.stream(pool), count=1)
            last = [recorded_event(pool, entry) for entry in entries]
            found[pool] = last[0].stream_id if last else "0"
            self._seqs[pool] = last[0].seq if last else 0
        return found

    async def before_seq(self, pool: str, seq: int) -> str:
        """An id before the entry with that `seq`, by binary search over time: `seq` only grows."""
        stream = self.stream(pool)
        oldest = await self._reader.range(stream, count=1)
        if self._archive and oldest and recorded_event(pool, oldest[0]).seq > seq:
            return await self._archive.archived_id(_log(pool), seq)
        low, high = 0, int((await self._reader.last_id(stream)).partition("-")[0])
        while low < high:  # entries up to `low` are not after it, those after `high` are
            middle = (low + high + 1) // 2
            entries = await self._reader.range(stream, str(middle), count=1)
            if entries and recorded_event(pool, entries[0]).seq <= seq:
                low = middle
            else:
                high = middle - 1
        return before_ms(low)

    # ---- new events --------------------------------------------------------------------------

    async def follow(self, *, new_pools: bool) -> AsyncIterator[RecordedEvent]:
        """All events after `positions` as they come, forever. `new_pools`: also of new pools."""
        backoff = Backoff(seconds=BACKOFF_SECONDS)
        while True:
            try:
                found = await self._read()
            except LogUnreachable as error:
                if not backoff.failures:
                    print_note(f"waiting for Redis: {error}")
                await asyncio.sleep(backoff.next_delay())
                continue
            backoff.reset()
            if not found or self._problems:
                # A lost log has no new events: print that instead of waiting in silence. If Redis
                # is unreachable, the next read reports it.
                with suppress(LogUnreachable):
                    await self.print_problems()
            for event in sorted(found, key=lambda event: (event.ms, event.pool, event.seq)):
                if new_pools and event.fields.get("type") == "pool.created":
                    self.positions.setdefault(event.fields["subject"], "0")
                yield event

    async def _read(self) -> list[RecordedEvent]:
        streams = {self.stream(pool): pool for pool in self.positions}
        raw = await self._reader.read({s: self.positions[pool] for s, pool in streams.items()})
        found = []
        for stream, entries in raw.items():
            pool = streams[stream]
            found += [*await self._read_gap(pool, entries[0]), *self._consume(pool, entries)]
        return found

    async def _read_gap(self, pool: str, next_entry: Entry) -> list[RecordedEvent]:
        """Events that were trimmed before they were read, while this reader could not read."""
        until, first = next_entry[0].decode(), recorded_event(pool, next_entry).seq
        found: list[RecordedEvent] = []
        while (last_seq := self._seqs.get(pool, 0)) + 1 < first:
            position = self.positions[pool]
            page = await self._event_range.after(_log(pool), position, until=until, count=CHUNK)
            missed = [entry for entry in page if recorded_event(pool, entry).seq < first]
            if not missed:
                print_note(f"{pool}: events {last_seq + 1} to {first - 1} are in the archive only")
                break
            found += self._consume(pool, missed)
        return found


def _log(pool: str) -> str:
    return LOG if pool == CATALOGUE else pool


def before_ms(ms: int) -> str:
    """The greatest id before a time: reads are exclusive, so they include the time itself."""
    return f"{ms - 1}-18446744073709551615" if ms > 0 else "0"
