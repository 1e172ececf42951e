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

from eventstore.catalogue import CatalogueLog
from eventstore.connection import UNREACHABLE, execute
from eventstore.errors import MusterError
from eventstore.events import LogRecovered
from eventstore.keys import Keys
from eventstore.log import CATALOGUE, Log
from eventstore.pool import Catalogue
from eventstore.reader import Entry, Reader
from projector.queries import Trail

log = structlog.get_logger()

BACKOFF_SECONDS = (0.05, 2.0)
HEADS_KEPT = 512
PAGE = 1000

_RECOVERED = LogRecovered.type.encode()
_BEGUN = msgspec.json.Decoder(LogRecovered)


class Listener(Protocol):
    """What the tail tells; must neither wait nor raise."""

    def take(self, pool: str, entries: Sequence[Entry]) -> None: ...


class Head:
    """How far one log was seen, and when it got there: for telling how late the views are."""

    def __init__(self, seq: int = 0, ts: int = 0) -> None:
        self.seq = seq
        self._steps: deque[tuple[int, int]] = deque([(seq, ts)], maxlen=HEADS_KEPT)

    def moved(self, seq: int, ts: int) -> None:
        self.seq = seq
        self._steps.append((seq, ts))

    def waiting_since(self, seq: int) -> int:
        """The log time of the first step past `seq`; 0 if there is none."""
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
    ) -> None:
        self.positions: dict[str, str] = {}
        self.heads: dict[str, Head] = {}
        self._log = events
        self._reader = reader
        self._catalogue = catalogue
        self._listeners = listeners
        self._trail = trail
        self._open_catalogue = open_catalogue
        self._task: asyncio.Task[None] | None = None
        self._following = asyncio.Event()
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
            delay = 0.0

    async def _outage(self, error: Exception, delay: float) -> float:
        """Say so once, wait, and give the next delay."""
        if delay == 0.0:
            log.warning("gateway.tail_lost", error=str(error))
        self._following.clear()
        first, longest = BACKOFF_SECONDS
        delay = min(delay * 2 or first, longest)
        await asyncio.sleep(delay)
        return delay

    async def _begin(self) -> None:
        """Take the end of every stream as the place to go on from."""
        state = await self._open_catalogue()
        positions = {CATALOGUE: state.stream_id if state.seq else "0-0"}
        self.heads[CATALOGUE] = Head(state.seq)
        for pool in state.pools:
            positions[pool], self.heads[pool] = await self._end_of(pool)
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
        stream_id, fields = last[0]
        return stream_id.decode(), Head(int(fields[5]), int(fields[25]))

    async def _read(self) -> None:
        streams = {self._stream(pool): pool for pool in self.positions}
        at = {stream: self.positions[pool] for stream, pool in streams.items()}
        # After an outage the first look does not block, so that it is soon known to be over.
        found = await self._reader.read(at, block=self._following.is_set())
        self._read_at = time.monotonic()
        for stream, entries in found.items():
            await self._fill(streams[stream], entries[0])
            self._take(streams[stream], entries)
        if self._catalogue.void:
            await self._open_catalogue()
        for pool in self._catalogue.state.pools:
            if pool not in self.positions:
                self.positions[pool], self.heads[pool] = "0-0", Head()

    async def _fill(self, pool: str, following: Entry) -> None:
        """Take what left the stream before this tail came to it."""
        until, end = following[0].decode(), _seq(following)
        while (seen := self.heads.setdefault(pool, Head()).seq) + 1 < end:
            found = await self._trail.after(pool, self.positions[pool], until=until, count=PAGE)
            missed = [entry for entry in found if _seq(entry) < end]
            if not missed:
                log.warning("gateway.events_missing", pool=pool, after=seen, before=end)
                return
            self._take(pool, missed)

    def _take(self, pool: str, entries: Sequence[Entry]) -> None:
        last_id, last = entries[-1]
        self.positions[pool] = last_id.decode()
        self.heads.setdefault(pool, Head()).moved(int(last[5]), int(last[25]))
        self._raise_floor(pool, entries)
        for listener in self._listeners:
            listener.take(pool, entries)
        if pool == CATALOGUE:
            self._catalogue.take(list(entries))

    def _raise_floor(self, pool: str, entries: Sequence[Entry]) -> None:
        """What was read here must not be missing from the log later."""
        generation = self._log.floor(pool)[0]
        for _, fields in entries:
            if fields[1] == _RECOVERED:
                generation = _BEGUN.decode(fields[27]).generation
        if generation:
            self._log.raise_floor(pool, generation, int(entries[-1][1][5]))

    def _stream(self, pool: str) -> str:
        keys: Keys = self._log.keys
        return keys.catalogue if pool == CATALOGUE else keys.pool(pool, "events")


def _seq(entry: Entry) -> int:
    return int(entry[1][5])
