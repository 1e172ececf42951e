"""Following the log: one blocking read per gateway wakes all requests that wait for an event.

The tail reads the catalogue and every pool's events from their ends at its start, and always
continues after the last id it read, also after an outage; what was trimmed meanwhile comes from the
archive. What it reads goes to its listeners at once and without a pause in between, so that a
listener's view of the positions is exact.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog
from msgspec import Struct, field

from eventstore.connection.backoff import Backoff
from eventstore.connection.calls import ask
from eventstore.errors import LogUnreachable, MusterError, UnknownEvent
from eventstore.keys import CATALOGUE
from eventstore.language.catalogue import Catalogue
from eventstore.language.events import LogRecovered
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Entry, Reader
from eventstore.ticks import set_within
from gateway.following import subscriptions
from projector.queries.views import EventRange, Position

log = structlog.get_logger("muster.gateway")

BACKOFF_SECONDS = (0.05, 2.0)
GATHER_SECONDS = 0.02
"""The time between reads while no client waits, so that each finds more."""
BUSY_ENTRIES = 10
BUSY_SECONDS = 0.005
"""After a read of so many entries also clients that wait do so for so long."""
PAGE_SIZE = 1000
CLOCK_SECONDS = 5.0
"""How often those logs are asked for their time that have not replied for long."""

_RECOVERED_TYPE = LogRecovered.type.encode()


Listener = Callable[[str, Sequence[Entry]], None]
"""Called with a pool and what was read of its log; must neither wait nor raise."""


class Tail(Struct, eq=False):
    """Follows all streams of one Redis. `positions` has the last id read, by pool."""

    _log: Log
    _reader: Reader
    _catalogue: CatalogueLog
    _listeners: Sequence[Listener]
    _event_range: EventRange
    open_catalogue: Callable[[], Awaitable[Catalogue]]
    on_stopped: Callable[[], None]
    on_removed: Callable[[str], None]
    awaited: Callable[[], bool]
    requested: asyncio.Event
    positions: dict[str, str] = {}
    stopped: dict[str, str] = {}
    """Logs that are no longer followed, and why: an event could not be read."""
    heads: defaultdict[str, subscriptions.ObservedHead] = field(
        default_factory=lambda: defaultdict(subscriptions.ObservedHead)
    )
    error: str = ""
    """Why no log is followed now; empty if Redis is unreachable."""
    _task: asyncio.Task[None] | None = None
    _following: asyncio.Event = field(default_factory=asyncio.Event)
    _retry_requested: asyncio.Event = field(default_factory=asyncio.Event)
    _applied: Catalogue | None = None
    _read_at: float = 0.0
    _clocks_at: float = 0.0
    _read_count: int = 0

    async def start(self, *, timeout_seconds: float) -> None:
        """Start, and wait until the tail follows; it goes on trying if that takes longer."""
        self._task = asyncio.create_task(self._run(), name="gateway.tail")
        await set_within(self._following, timeout_seconds)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._reader.close()

    async def retry_now(self) -> None:
        """Abandon a read that may never be answered, and do not wait before the next."""
        self._retry_requested.set()
        self.requested.set()
        await self._reader.abort()

    def age_ms(self, position: Position) -> int:
        """How long ago, at most, the views at this position had all that was in the log."""
        head = self.heads.get(position.pool)
        since = head.behind_since(position.seq) if head else position.ts
        if since or head is None:
            return max(self._log.now_ms(position.pool) - since, 0)
        return int((time.monotonic() - self._read_at) * 1000)

    @property
    def following(self) -> bool:
        """Whether the last read came back, not too long ago."""
        recent = time.monotonic() - self._read_at < self._reader.block_ms / 1000 + 2.0
        return self._following.is_set() and recent

    # ---- the loop ----------------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = Backoff(seconds=BACKOFF_SECONDS)
        while True:
            try:
                if not self.positions:
                    await self._start_at_end()
                if time.monotonic() - self._clocks_at > CLOCK_SECONDS:
                    self._clocks_at = time.monotonic()
                    await self._log.refresh_clocks(self.positions)
                await self._gather()
                await self._read()
            except Exception as error:
                if not isinstance(error, MusterError):
                    log.error("gateway.tail_failed", exc_info=error)
                await self._back_off(error, backoff)
                continue
            backoff.reset()
            if not self._following.is_set():
                log.info("gateway.tail_following", streams=len(self.positions))
                self._following.set()
                self.error = ""

    async def _gather(self) -> None:
        """Let events come together, up to `GATHER_SECONDS` after the last read."""
        self.requested.clear()
        remaining = self._read_at + GATHER_SECONDS - time.monotonic()
        if self.awaited():
            await asyncio.sleep(BUSY_SECONDS if self._read_count >= BUSY_ENTRIES else 0)
        elif remaining > 0 and self._following.is_set():
            await set_within(self.requested, remaining)

    async def _back_off(self, error: Exception, backoff: Backoff) -> None:
        if not backoff.active:
            log.warning("gateway.tail_lost", error=str(error))
        self._following.clear()
        self.error = "" if isinstance(error, LogUnreachable) else str(error)
        self._retry_requested.clear()
        await set_within(self._retry_requested, backoff.next_delay())

    async def _start_at_end(self) -> None:
        """Start after the last entry of every stream."""
        state = await self.open_catalogue()
        positions = {CATALOGUE: state.stream_id if state.seq else "0-0"}
        self.heads[CATALOGUE] = subscriptions.ObservedHead(state.seq)
        for pool in state.pools:
            positions[pool], self.heads[pool] = await self._end_position(pool)
        await self._log.refresh_clocks(positions)
        self.positions, self._read_at = positions, time.monotonic()

    async def _end_position(self, pool: str) -> tuple[str, subscriptions.ObservedHead]:
        stream = self._log.keys.pool(pool, "events")
        command = ("XREVRANGE", stream, "+", "-", "COUNT", 1)
        last = await ask(self._log.client, *command, doing=f"the end of {stream} cannot be read")
        if not last:
            at, seq = await self._log.retired_at(pool)
            return at, subscriptions.ObservedHead(seq)
        [entry] = last
        stream_id, fields = entry[0].decode(), entry[1]
        if subscriptions.well_formed(entry):
            return stream_id, subscriptions.ObservedHead(int(fields[5]), int(fields[25]))
        self._stop_following(pool, f"entry {stream_id}: {subscriptions.foreign_entry()}")
        return stream_id, subscriptions.ObservedHead()

    async def _read(self) -> None:
        active = [pool for pool in self.positions if pool not in self.stopped]
        streams = {self._log.keys.pool(pool, "events"): pool for pool in active}
        positions = {stream: self.positions[pool] for stream, pool in streams.items()}
        # A log may be recovered before what is read here is applied: it is of the old log then.
        generations = {pool: self._log.high_water_mark(pool)[0] for pool in active}
        # After an outage the first read does not block, so that its end is known soon.
        entries_by_stream = await self._reader.read(positions, block=self._following.is_set())
        self._read_at = time.monotonic()
        self._read_count = sum(map(len, entries_by_stream.values()))
        for stream, entries in entries_by_stream.items():
            pool = streams[stream]
            if self._readable_prefix(pool, entries[:1]):
                await self._fill_gap(pool, entries[0], generations[pool])
                self._consume(pool, entries, generations[pool])
        if self._catalogue.invalidated:
            await self.open_catalogue()
        if self._catalogue.state is not self._applied:
            await self._follow_pools(self._catalogue.state)

    async def _follow_pools(self, catalogue: Catalogue) -> None:
        """Follow new pools, and none that was removed or that a recovered catalogue lacks."""
        for pool in catalogue.pools.keys() - self.positions:
            at, seq = await self._log.retired_at(pool)
            self.positions[pool], self.heads[pool] = at, subscriptions.ObservedHead(seq)
        for pool in self.positions.keys() - catalogue.pools.keys() - {CATALOGUE}:
            del self.positions[pool], self.heads[pool]
            self.stopped.pop(pool, None)
            self.on_removed(pool)
        self._applied = catalogue

    async def _fill_gap(self, pool: str, next_entry: Entry, generation: int) -> None:
        """Read what left the stream before this tail read it."""
        until, end_seq = next_entry[0].decode(), subscriptions.entry_seq(next_entry)
        while pool not in self.stopped and (observed_seq := self.heads[pool].seq) + 1 < end_seq:
            page = await self._event_range.after(
                pool, self.positions[pool], until=until, count=PAGE_SIZE
            )
            missed = [entry for entry in page if subscriptions.entry_seq(entry) < end_seq]
            if not missed:
                log.warning("gateway.events_missing", pool=pool, after=observed_seq, before=end_seq)
                return
            self._consume(pool, missed, generation)

    def _consume(self, pool: str, entries: Sequence[Entry], generation: int) -> None:
        entries = () if pool in self.stopped else self._readable_prefix(pool, entries)
        if not entries:
            return
        if pool == CATALOGUE:
            try:
                self._catalogue.apply(list(entries))
            except UnknownEvent as error:
                self._stop_following(pool, str(error))
                return
        last_id, last = entries[-1]
        self.positions[pool] = last_id.decode()
        self.heads[pool].advance(int(last[5]), int(last[25]))
        self._raise_high_water_mark(pool, entries, generation)
        for listener in self._listeners:
            listener(pool, entries)

    def _readable_prefix(self, pool: str, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The entries before the first that this version cannot read; that one stops this log."""
        for index, entry in enumerate(entries):
            try:
                subscriptions.require_readable(entry, with_body=pool == CATALOGUE)
            except UnknownEvent as error:
                self._stop_following(pool, f"entry {entry[0].decode()}: {error}")
                return entries[:index]
        return entries

    def _stop_following(self, pool: str, reason: str) -> None:
        """Stop following this log: nothing is skipped."""
        name = f"pool {pool!r}" if pool else "the catalogue"
        self.stopped[pool] = (
            f"the log of {name} is not followed any further: {reason}; upgrade this gateway and"
            " restart it"
        )
        log.error("gateway.tail_stopped", pool=pool, reason=self.stopped[pool])
        self.on_stopped()

    def _raise_high_water_mark(self, pool: str, entries: Sequence[Entry], generation: int) -> None:
        """What was read here, and was of this generation then, must not be missing later."""
        for _, fields in entries:
            if fields[1] == _RECOVERED_TYPE:
                recovered = msgspec.json.decode(fields[27], type=LogRecovered)
                generation = recovered.generation
                log.warning(
                    "log.recovered", pool=pool, generation=generation, seq=recovered.from_seq
                )
        if generation:
            self._log.raise_high_water_mark(pool, generation, int(entries[-1][1][5]))
