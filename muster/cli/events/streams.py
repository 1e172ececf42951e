"""Reading the record for people: many streams as one, in the order of time.

The streams are read from a position, onward, and below their beginning the archive, where a
database was named. What stands when the reading begins is merged by time; what comes later is told
as it comes. An entry is kept as the flat text that it is, so that events of a newer version can be
read too.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from eventstore.errors import LogUnreachable
from eventstore.keys import CATALOGUE as LOG
from eventstore.log.reader import Entry
from muster.cli.arguments.command import print_note

if TYPE_CHECKING:
    from projector.intake.source import Source
    from projector.queries.views import Views

CATALOGUE = "catalogue"
"""How the stream of pools and hosts is called where a pool's name stands."""
MISSING = "the log is missing"
RECOVERY_HINT = "`muster recover --dry-run` says more, `muster recover` brings it back"
CHUNK = 500
DIGITS = 19
"""Numbers of more digits are none of ours."""
BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0)


class RecordedEvent(Struct, frozen=True):
    """An event as it stands in a stream. `pool` may be `catalogue`."""

    pool: str
    stream_id: str
    fields: Mapping[str, str]

    @property
    def seq(self) -> int:
        return number(self.fields.get("seq"))

    @property
    def ms(self) -> int:
        return int(self.stream_id.partition("-")[0])

    def document(self) -> dict[str, object]:
        """The event as JSON says it: numbers as numbers, `data` as the object it is."""
        numbers = ("version", "seq", "incarnation", "epoch", "ts")
        document: dict[str, object] = {"pool": self.pool, "stream_id": self.stream_id}
        for name, value in self.fields.items():
            document[name] = number(value) if name in numbers else value
        document["data"] = _data(self.fields.get("data", ""))
        return document


def number(text: str | None) -> int:
    """A number as it stands in an entry; 0 for what is none."""
    digits = text or ""
    return int(digits) if digits.isdecimal() and len(digits) < DIGITS else 0


def _data(text: str) -> object:
    """The object that it is; what is no JSON stays text."""
    try:
        return msgspec.json.decode(text or "{}", type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return text


EventFilter = Callable[[RecordedEvent], bool]


def recorded_event(pool: str, entry: Entry) -> RecordedEvent:
    stream_id, flat = entry
    texts = [item.decode(errors="replace") for item in flat]
    return RecordedEvent(pool, stream_id.decode(), dict(zip(texts[::2], texts[1::2], strict=False)))


class Streams:
    """The streams of some pools; `positions` holds, by pool, the last id that was told.

    `archive`: the views' database, for what was trimmed; None where nobody said which.
    """

    def __init__(self, source: "Source", archive: "Views | None" = None) -> None:
        from projector.queries.views import EventRange

        self._source = source
        self._reader = reader = source.reader
        self._keys = source.keys
        self._archive = archive
        self._event_range = EventRange(
            source.keys, reader.range, archive.archived if archive else None
        )
        self._problems: dict[str, str] = {}
        self.positions: dict[str, str] = {}
        self._seqs: dict[str, int] = {}
        """How far each stream is told, or stood where telling what comes begins."""

    def stream(self, pool: str) -> str:
        return self._keys.catalogue if pool == CATALOGUE else self._keys.pool(pool, "events")

    async def pools(self) -> list[str]:
        """The names of all pools there ever were, as the catalogue tells them."""
        names: dict[str, None] = {}
        after = "-"
        while entries := await self._reader.range(self._keys.catalogue, after, count=CHUNK):
            for entry in entries:
                event = recorded_event(CATALOGUE, entry)
                if event.fields.get("type") == "pool.created":
                    names[event.fields["subject"]] = None
            after = f"({entries[-1][0].decode()}"
        return list(names)

    async def problems(self, pools: Collection[str]) -> dict[str, str]:
        """Which of these logs are missing or halted, by pool."""
        names = [_log(pool) for pool in pools]
        # A log that is made later than it is looked for is not missing, so this is asked first.
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
        """Tell a person of each log that is missing or halted, once, and when it is back."""
        found = await self.problems(self.positions)
        for pool, problem in found.items():
            if self._problems.get(pool) != problem:
                print_note(f"{pool}: {problem}; {RECOVERY_HINT}")
        for pool in self._problems.keys() - found.keys():
            print_note(f"{pool}: the log is there again")
        self._problems = found

    # ---- what stands -------------------------------------------------------------------------

    async def read_until(self, until: Mapping[str, str]) -> AsyncIterator[RecordedEvent]:
        """Everything after `positions` up to the ids of `until`, merged by time."""
        queues: dict[str, deque[RecordedEvent]] = {pool: deque() for pool in self.positions}
        unread = {pool for pool in self.positions if until[pool] != "0"}
        while True:
            for pool in [pool for pool in unread if not queues[pool]]:
                if not await self._fill(pool, until[pool], queues[pool]):
                    unread.discard(pool)
            heads = [queue[0] for queue in queues.values() if queue]
            if not heads:
                return
            first = min(heads, key=lambda event: (event.ms, event.pool, event.seq))
            queues[first.pool].popleft()
            yield first

    async def _fill(self, pool: str, last: str, queue: deque[RecordedEvent]) -> bool:
        position = self.positions[pool]
        entries = await self._event_range.after(_log(pool), position, until=last, count=CHUNK)
        queue.extend(self._consume(pool, entries))
        return bool(entries)

    def _consume(self, pool: str, entries: Sequence[Entry]) -> list[RecordedEvent]:
        """Note how far a stream is told with these."""
        found = [recorded_event(pool, entry) for entry in entries]
        if found:
            self.positions[pool], self._seqs[pool] = found[-1].stream_id, found[-1].seq
        return found

    async def newest(
        self, until: Mapping[str, str], count: int, matches: EventFilter
    ) -> list[RecordedEvent]:
        """The last `count` of what is to be kept, oldest first; moves `positions` to `until`."""
        found: list[RecordedEvent] = []
        for pool in self.positions:
            found += await self._newest(pool, until[pool], count, matches)
        self.positions.update(until)
        found.sort(key=lambda event: (event.ms, event.pool, event.seq))
        return found[-count:] if count else []

    async def _newest(
        self, pool: str, last: str, count: int, matches: EventFilter
    ) -> list[RecordedEvent]:
        matching: list[RecordedEvent] = []
        while len(matching) < count and last != "0":
            entries = await self._older(pool, last)
            matching += [
                event for entry in entries if matches(event := recorded_event(pool, entry))
            ]
            last = f"({entries[-1][0].decode()}" if entries else "0"
        return matching[:count]

    async def _older(self, pool: str, last: str) -> Sequence[Entry]:
        """A page of entries up to an id (before it, after a bracket), newest first."""
        from projector.intake.entries import entry_of
        from projector.queries.views import DatabaseError

        entries = await self._reader.newest(self.stream(pool), last, count=CHUNK)
        if entries or self._archive is None:
            return entries
        try:
            rows = await self._archive.archived_before(_log(pool), last.removeprefix("("), CHUNK)
        except DatabaseError:
            print_note(f"{pool}: older events are in the archive, which does not answer")
            return []
        return [entry_of(row) for row in rows]

    async def ends(self) -> dict[str, str]:
        """The id of the last entry of each stream, `0` where it is empty."""
        found: dict[str, str] = {}
        for pool in self.positions:
            last = [
                recorded_event(pool, e)
                for e in await self._reader.newest(self.stream(pool), count=1)
            ]
            found[pool] = last[0].stream_id if last else "0"
            self._seqs[pool] = last[0].seq if last else 0
        return found

    async def before_seq(self, pool: str, seq: int) -> str:
        """An id before the entry with that `seq`, found by halving time: `seq` only grows."""
        stream = self.stream(pool)
        oldest = await self._reader.range(stream, count=1)
        if self._archive and oldest and recorded_event(pool, oldest[0]).seq > seq:
            return await self._archive.archived_id(_log(pool), seq)
        low, high = 0, int((await self._reader.last_id(stream)).partition("-")[0])
        while low < high:  # entries up to `low` are not past it, those after `high` are
            middle = (low + high + 1) // 2
            entries = await self._reader.range(stream, str(middle), count=1)
            if entries and recorded_event(pool, entries[0]).seq <= seq:
                low = middle
            else:
                high = middle - 1
        return before_ms(low)

    # ---- what comes --------------------------------------------------------------------------

    async def follow(self, *, new_pools: bool) -> AsyncIterator[RecordedEvent]:
        """Everything after `positions` as it comes, for ever. `join`: new pools too."""
        failures = 0
        while True:
            try:
                found = await self._read()
            except LogUnreachable as error:
                if not failures:
                    print_note(f"waiting for Redis: {error}")
                await asyncio.sleep(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)])
                failures += 1
                continue
            failures = 0
            if not found or self._problems:
                await self._recheck_logs()
            for event in sorted(found, key=lambda event: (event.ms, event.pool, event.seq)):
                if new_pools and event.fields.get("type") == "pool.created":
                    self.positions.setdefault(event.fields["subject"], "0")
                yield event

    async def _recheck_logs(self) -> None:
        """Nothing comes of a log that is lost: rather than wait in silence, say so."""
        try:
            await self.print_problems()
        except LogUnreachable:
            return  # the next reading tells of it

    async def _read(self) -> list[RecordedEvent]:
        streams = {self.stream(pool): pool for pool in self.positions}
        raw = await self._reader.read({s: self.positions[pool] for s, pool in streams.items()})
        found = []
        for stream, entries in raw.items():
            pool = streams[stream]
            found += await self._read_gap(pool, entries[0])
            found += self._consume(pool, entries)
        return found

    async def _read_gap(self, pool: str, next_entry: Entry) -> list[RecordedEvent]:
        """What left the stream before it was read: it went on while this reader could not."""
        until, first = next_entry[0].decode(), recorded_event(pool, next_entry).seq
        found: list[RecordedEvent] = []
        while (last_seq := self._seqs.get(pool, 0)) + 1 < first:
            page = await self._event_range.after(
                _log(pool), self.positions[pool], until=until, count=CHUNK
            )
            missed = [entry for entry in page if recorded_event(pool, entry).seq < first]
            if not missed:
                print_note(f"{pool}: events {last_seq + 1} to {first - 1} are in the archive only")
                break
            found += self._consume(pool, missed)
        return found


def _log(pool: str) -> str:
    return LOG if pool == CATALOGUE else pool


def before_ms(ms: int) -> str:
    """The greatest id before a moment: reading goes on after an id, so this includes the moment."""
    return f"{ms - 1}-18446744073709551615" if ms > 0 else "0"
