"""A client that follows the events, reconnects where it was cut off, and must receive them all.

It follows `/api/v1/events` at one gateway after the other, from the start, and resumes after the
last id that it received. In the end it must have received every event of the archive once, in the
order of its log. Events that a log lost before they were archived may have been received as well:
then that log continued from a lower seq, which is received later.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random

import aiohttp
from msgspec import Struct

from tests.chaos.system import System
from tests.chaos.views import DATABASE_ERRORS, select

SILENT_SECONDS = 10.0
"""A gateway says something more often than that, unless it hangs."""
PAUSE_SECONDS = (0.1, 0.6)
STAY_SECONDS = (1.0, 20.0)
"""How long it stays with a gateway before it tries another."""
LINE_MAX = 1 << 20
POLL_SECONDS = 0.3


class Archived(Struct, frozen=True):
    """The position of an event in the archive."""

    pool: str
    generation: int
    seq: int
    event_id: str


class Received(Struct, frozen=True):
    """An event as it was received."""

    pool: str
    event_id: str
    seq: int


class Listener:
    """One such client. `received` holds the events in the order in which they came."""

    def __init__(self, gateways: list[str], random: Random) -> None:
        self.received: list[Received] = []
        self.offences: list[str] = []
        self.connections = 0
        self._gateways = gateways
        self._random = random
        self._last_id = ""

    async def listen(self) -> None:
        """Until cancelled."""
        limit = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=SILENT_SECONDS)
        async with aiohttp.ClientSession(timeout=limit, read_bufsize=LINE_MAX) as session:
            while True:
                try:
                    async with asyncio.timeout(self._random.uniform(*STAY_SECONDS)):
                        await self._follow(session, self._random.choice(self._gateways))
                except (aiohttp.ClientError, TimeoutError, OSError):
                    pass
                await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))

    async def _follow(self, session: aiohttp.ClientSession, gateway: str) -> None:
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        url = f"{gateway}/api/v1/events" + ("" if self._last_id else "?after=0")
        async with session.get(url, headers=headers) as response:
            if response.status != 200:
                if response.status in (400, 500):
                    self.offences.append(f"GET {url}: {response.status}: {await response.text()}")
                return
            self.connections += 1
            await self._take_in(response)

    async def _take_in(self, response: aiohttp.ClientResponse) -> None:
        """Each block completely, as browsers do: a truncated one does not count."""
        block: dict[str, str] = {}
        async for line in response.content:
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(": ")
                block[name] = value
                continue
            if "data" in block:
                event = json.loads(block["data"])
                self.received.append(Received(event["pool"], event["event_id"], event["seq"]))
            self._last_id = block.get("id", self._last_id)
            block = {}

    async def caught_up(self, system: System, timeout_seconds: float) -> list[Archived]:
        """Wait until it has received the last of the archive; returns the archive."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_seconds
        while True:
            rows = await asyncio.to_thread(archive, system.views_url)
            received = {event.event_id for event in self.received}
            if (rows and all(row.event_id in received for row in rows)) or clock() > deadline:
                return rows
            await asyncio.sleep(POLL_SECONDS)


def judge_received(
    received: Sequence[Received], archived: Iterable[Archived], *, lossy: bool
) -> Iterator[str]:
    """What is wrong with what was received. `lossy`: a log was recovered, so events may be gone."""
    rows = {row.event_id: row for row in archived}
    if not rows:
        yield "the archive could not be read, or is empty"
    lost = _lost(received, rows) if lossy else set()
    seen: set[str] = set()
    last: dict[str, Archived] = {}
    for event in received:
        pool, event_id = event.pool, event.event_id
        row = rows.get(event_id)
        where = f"{pool or 'catalogue'} event {event_id}"
        if event_id in seen:
            yield f"received twice: {where}"
        elif row is None and event_id not in lost:
            yield f"received, and not in the archive: {where}"
        elif row is not None:
            before = last.get(pool)
            if before and (row.generation, row.seq) < (before.generation, before.seq):
                yield f"received out of order: {where}: seq {row.seq} after {before.seq}"
            last[pool] = row
        seen.add(event_id)
    for row in rows.values():
        if row.event_id not in seen:
            name = row.pool or "catalogue"
            yield f"never received: {name} {row.generation}:{row.seq} event {row.event_id}"


def _lost(received: Sequence[Received], rows: Mapping[str, Archived]) -> set[str]:
    """The events after which their log continued at a lower seq, or not at all."""
    least = dict.fromkeys(
        {event.pool for event in received} - {row.pool for row in rows.values()}, 0
    )
    found = set()
    for event in reversed(received):
        if event.event_id in rows:
            least[event.pool] = min(least.get(event.pool, event.seq), event.seq)
        elif least.get(event.pool, event.seq + 1) <= event.seq:
            found.add(event.event_id)
    return found


def archive(url: str) -> list[Archived]:
    """All archived events, in their order; none while the database does not answer."""
    query = "SELECT pool, generation, seq, event_id FROM {}events ORDER BY 1, 2, 3"
    try:
        return [Archived(*row) for row in select(url, query)]
    except DATABASE_ERRORS:
        return []
