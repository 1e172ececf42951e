"""Following the log: one blocking read per gateway wakes whoever waits for something to happen.

The tail reads the catalogue and every pool's events from where they ended when it began, and
always goes on from the last id it saw, also after an outage; what was trimmed meanwhile comes from
the archive. What it reads goes to its listeners at once and without a pause between, so that a
listener's view of the positions is exact.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec
import structlog
from redis.exceptions import RedisError

from eventstore.connection.calls import UNREACHABLE, execute
from eventstore.errors import LogUnreachable, MusterError, UnknownEvent
from eventstore.keys import CATALOGUE, Keys
from eventstore.language.catalogue import Catalogue
from eventstore.language.events import ENTRY_FIELDS, LogRecovered, decode_entry, demand_known
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Entry, Reader
from gateway.following.subscriptions import well_formed
from projector.queries.views import Position, Trail

log = structlog.get_logger()

BACKOFF_SECONDS = (0.05, 2.0)
HEADS_KEPT = 512
PAGE = 1000

_RECOVERED = LogRecovered.type.encode()
_BEGUN = msgspec.json.Decoder(LogRecovered)


class Listener(Protocol):
    """What the tail tells; must neither wait nor raise."""

    def take(self, pool: str, entries: Sequence[Entry]) -> None: ...


def demand_readable(entry: Entry, *, whole: bool) -> None:
    """Raises `UnknownEvent` unless this version can read it; `whole`: its body, too."""
    stream_id, fields = entry
    if whole or len(fields) != 2 * len(ENTRY_FIELDS):
        decode_entry(stream_id, fields)
    try:
        demand_known(fields[1].decode(), int(fields[3]))
        for number in (fields[5], fields[11] or 0, fields[15] or 0, fields[25]):
            int(number)
        b"".join(fields).decode()
    except ValueError as error:
        raise UnknownEvent(repr(fields[1]), 0, None, str(error)) from error


class Head:
    """How far one log was seen, and when it got there: for telling how late the views are."""

    def __init__(self, seq: int = 0, ts: int = 0) -> None:
        self.seq = seq
        self._steps: deque[tuple[int, int]] = deque([(seq, ts)], maxlen=HEADS_KEPT)

    def moved(self, seq: int, ts: int) -> None:
        """A log that was recovered goes on below what was seen of it: that is void."""
        while self._steps and self._steps[-1][0] >= seq:
            self._steps.pop()
        self.seq = seq
        self._steps.append((seq, ts))

    def waiting_since(self, seq: int) -> int:
        """The log time of the first step past `seq` that is remembered; 0 if there is none."""
        return next((ts for reached, ts in self._steps if reached > seq), 0)


class Tail:
    """Follows all streams of one Redis. `positions` holds the last id seen, by pool."""

    def __init__(
        self,
        events: Log,
        reader: Reader,
        catalogue: CatalogueLog,
        listeners: Sequence[Listener],
        trail: Trail,
        *,
        open_catalogue: Callable[[], Awaitable[Catalogue]],
        on_stopped: Callable[[], None],
    ) -> None:
        self.positions: dict[str, str] = {}
        self.stopped: dict[str, str] = {}
        """Logs that cannot be followed on, and why: one event could not be read."""
        self.heads: dict[str, Head] = {}
        self._log = events
        self._reader = reader
        self._catalogue = catalogue
        self._listeners = listeners
        self._trail = trail
        self._open_catalogue = open_catalogue
        self._on_stopped = on_stopped
        self.trouble = ""
        """Why no log is being followed at the moment, where that is not Redis being away."""
        self._task: asyncio.Task[None] | None = None
        self._following = asyncio.Event()
        self._hurry = asyncio.Event()
        self._read_at = 0.0

    async def start(self, *, timeout_seconds: float) -> bool:
        """Begin; True once the tail follows, False where Redis is away (it goes on trying)."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="gateway.tail")
        try:
            await asyncio.wait_for(self._following.wait(), timeout_seconds)
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._reader.close()

    async def look_again(self) -> None:
        """Give up a read that may never be answered, and do not wait before the next."""
        self._hurry.set()
        await self._reader.give_up()

    def age_ms(self, pool: str, position: Position, now_ms: int) -> int:
        """How long ago, at most, the views at this position told all that the log held."""
        head = self.heads.get(pool)
        since = head.waiting_since(position.seq) if head else position.ts
        if since or head is None:
            return max(now_ms - since, 0)
        return int((time.monotonic() - self._read_at) * 1000)

    @property
    def following(self) -> bool:
        """Whether the last read came back, not too long ago."""
        fresh = time.monotonic() - self._read_at < self._reader.block_ms / 1000 + 2.0
        return self._following.is_set() and fresh

    # ---- the loop ----------------------------------------------------------------------------

    async def _run(self) -> None:
        delay = 0.0
        while True:
            try:
                if not self.positions:
                    await self._begin()
                await self._log.learn_times(self.positions)
                await self._read()
            except MusterError as error:
                delay = await self._outage(error, delay)
                continue
            except Exception as error:
                log.error("gateway.tail_failed", exc_info=error)
                delay = await self._outage(error, delay)
                continue
            if not self._following.is_set():
                log.info("gateway.tail_following", streams=len(self.positions))
                self._following.set()
                self.trouble = ""
            delay = 0.0

    async def _outage(self, error: Exception, delay: float) -> float:
        """Say so once, wait, and give the next delay."""
        if delay == 0.0:
            log.warning("gateway.tail_lost", error=str(error))
        self._following.clear()
        self.trouble = "" if isinstance(error, LogUnreachable) else str(error)
        first, longest = BACKOFF_SECONDS
        delay = min(delay * 2 or first, longest)
        self._hurry.clear()
        try:
            async with asyncio.timeout(delay):
                await self._hurry.wait()
        except TimeoutError:
            pass
        return delay

    async def _begin(self) -> None:
        """Take the end of every stream as the place to go on from."""
        state = await self._open_catalogue()
        positions = {CATALOGUE: state.stream_id if state.seq else "0-0"}
        self.heads[CATALOGUE] = Head(state.seq)
        for pool in state.pools:
            positions[pool], self.heads[pool] = await self._end_of(pool)
        await self._log.learn_times(positions)
        self.positions, self._read_at = positions, time.monotonic()
        self._following.set()
        log.info("gateway.tail_following", streams=len(positions))

    async def _end_of(self, pool: str) -> tuple[str, Head]:
        stream = self._log.keys.pool(pool, "events")
        try:
            last = await execute(self._log.client, "XREVRANGE", stream, "+", "-", "COUNT", 1)
        except (*UNREACHABLE, RedisError) as error:
            raise MusterError(f"the end of {stream} cannot be read: {error}") from error
        if not last:
            return "0-0", Head()
        [entry] = last
        stream_id, fields = entry[0].decode(), entry[1]
        if well_formed(entry):
            return stream_id, Head(int(fields[5]), int(fields[25]))
        self._stop(pool, f"entry {stream_id}: {_foreign()}")
        return stream_id, Head()

    async def _read(self) -> None:
        going = [pool for pool in self.positions if pool not in self.stopped]
        streams = {self._stream(pool): pool for pool in going}
        at = {stream: self.positions[pool] for stream, pool in streams.items()}
        # A log may be recovered before what was read here is taken: that is of before it, then.
        generations = {pool: self._log.floor(pool)[0] for pool in going}
        # After an outage the first look does not block, so that it is soon known to be over.
        found = await self._reader.read(at, block=self._following.is_set())
        self._read_at = time.monotonic()
        for stream, entries in found.items():
            pool = streams[stream]
            if self._readable(pool, entries[:1]):
                await self._fill(pool, entries[0], generations[pool])
                self._take(pool, entries, generations[pool])
        if self._catalogue.void:
            await self._open_catalogue()
            self._forget_lost()
        for pool in self._catalogue.state.pools:
            if pool not in self.positions:
                self.positions[pool], self.heads[pool] = "0-0", Head()

    def _forget_lost(self) -> None:
        """Follow no pools that the recovered catalogue does not know."""
        for pool in self.positions.keys() - self._catalogue.state.pools - {CATALOGUE}:
            del self.positions[pool], self.heads[pool]
            self.stopped.pop(pool, None)

    async def _fill(self, pool: str, following: Entry, generation: int) -> None:
        """Take what left the stream before this tail came to it."""
        until, end = following[0].decode(), _seq(following)
        while (
            pool not in self.stopped and (seen := self.heads.setdefault(pool, Head()).seq) + 1 < end
        ):
            found = await self._trail.after(pool, self.positions[pool], until=until, count=PAGE)
            missed = [entry for entry in found if _seq(entry) < end]
            if not missed:
                log.warning("gateway.events_missing", pool=pool, after=seen, before=end)
                return
            self._take(pool, missed, generation)

    def _take(self, pool: str, entries: Sequence[Entry], generation: int) -> None:
        entries = () if pool in self.stopped else self._readable(pool, entries)
        if not entries:
            return
        if pool == CATALOGUE:
            try:
                self._catalogue.take(list(entries))
            except UnknownEvent as error:
                self._stop(pool, str(error))
                return
        last_id, last = entries[-1]
        self.positions[pool] = last_id.decode()
        self.heads.setdefault(pool, Head()).moved(int(last[5]), int(last[25]))
        self._raise_floor(pool, entries, generation)
        for listener in self._listeners:
            listener.take(pool, entries)

    def _readable(self, pool: str, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Those before the first that this version cannot read; that one stops the log's tail."""
        for number, entry in enumerate(entries):
            try:
                if not well_formed(entry):
                    raise _foreign()
                demand_readable(entry, whole=pool == CATALOGUE)
            except UnknownEvent as error:
                self._stop(pool, f"entry {entry[0].decode()}: {error}")
                return entries[:number]
        return entries

    def _stop(self, pool: str, why: str) -> None:
        """Follow this log no further: nothing is skipped."""
        name = f"pool {pool!r}" if pool else "the catalogue"
        self.stopped[pool] = (
            f"the log of {name} is followed no further: {why}; upgrade this gateway and start it"
            " again"
        )
        log.error("gateway.tail_stopped", pool=pool, reason=self.stopped[pool])
        self._on_stopped()

    def _raise_floor(self, pool: str, entries: Sequence[Entry], generation: int) -> None:
        """What was read here must not be missing from the log later.

        `generation`: the floor's before it was read.
        """
        for _, fields in entries:
            if fields[1] == _RECOVERED:
                begun = _BEGUN.decode(fields[27])
                generation = begun.generation
                log.warning("log.recovered", pool=pool, generation=generation, seq=begun.from_seq)
        if generation:
            self._log.raise_floor(pool, generation, int(entries[-1][1][5]))

    def _stream(self, pool: str) -> str:
        keys: Keys = self._log.keys
        return keys.catalogue if pool == CATALOGUE else keys.pool(pool, "events")


def _foreign() -> UnknownEvent:
    return UnknownEvent("entry that is none of an event", 0, None)


def _seq(entry: Entry) -> int:
    return int(entry[1][5]) if well_formed(entry) else 0
