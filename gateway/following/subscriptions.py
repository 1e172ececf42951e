"""The gateway's live feed: what the tail reads, passed to every client that follows.

Each client has a bounded queue. One that falls too far behind is removed, notified, and resumes
with `Last-Event-ID` from the streams themselves. Nothing is dropped silently.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from typing import Final

import msgspec
from msgspec import Struct

from eventstore.errors import UnknownEvent
from eventstore.language import events
from eventstore.log.reader import Entry
from gateway.following.waiters import Inbox
from gateway.wire.problems import Kind, Problem


class FlatEvent(Struct, frozen=True):
    """An event as it is in its stream, in that order. `pool` is empty for the catalogue."""

    pool: str
    stream_id: str
    type: str
    version: int
    seq: int
    event_id: str
    subject: str
    incarnation: int
    worker_id: str
    epoch: int
    correlation_id: str
    causation_id: str
    traceparent: str
    actor: str
    ts: int
    data: msgspec.Raw


class EncodedEvent(Struct, frozen=True):
    """An event on its way to clients: what they select by, and its lines, made once for all.

    `project`: that which it names, if it is an agent's first.
    """

    pool: str
    stream_id: str
    type: str
    subject: str
    lines: bytes
    project: str = ""


class _Requested(Struct, frozen=True):
    project_id: str


_REQUESTED: Final = events.AgentRequested.type
FIELD_NAMES: Final = [name.encode() for name in events.ENTRY_FIELDS]
_numbers: Final = itemgetter(
    *(2 * at + 1 for at, name in enumerate(events.ENTRY_FIELDS) if name in events.ENTRY_NUMBERS)
)
"""The numbers among names and values: version, seq, incarnation, epoch and ts."""
DIGITS_MAX: Final = 19
QUEUE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of the events that wait for one client."""


def well_formed(entry: Entry) -> bool:
    """Whether an entry is that of an event, known or not: the right fields, with numbers in them.

    Listeners of the tail may rely on this, and on nothing else.
    """
    fields = entry[1]
    if fields[::2] != FIELD_NAMES:
        return False
    try:
        b" ".join(fields).decode()
    except UnicodeDecodeError:
        return False
    version, seq, incarnation, epoch, ts = numbers = _numbers(fields)
    required = version and seq and ts
    digits: bytes = b"".join((version, seq, incarnation, epoch, ts))
    return bool(required) and digits.isdigit() and max(map(len, numbers)) < DIGITS_MAX


def encode_event(pool: str, entry: Entry) -> EncodedEvent:
    """A well-formed entry for clients, also one whose type this version does not know."""
    stream_id, fields = entry
    values = events.entry_values(map(bytes.decode, fields[1::2]), lambda text: int(text or 0))
    values[-1] = _one_line_json(fields[-1])
    event = FlatEvent(pool, stream_id.decode(), *values)
    lines = b"event: %s\ndata: %s" % (_one_line(fields[1]), msgspec.json.encode(event))
    project = _project(fields[-1]) if event.type == _REQUESTED else ""
    return EncodedEvent(pool, event.stream_id, event.type, event.subject, lines, project)


def _project(data: bytes) -> str:
    """Of a spawn; empty if it cannot be read."""
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(data, type=_Requested).project_id
    return ""


def _one_line_json(data: bytes) -> msgspec.Raw:
    """JSON on one line; what is not JSON is encoded as text."""
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return msgspec.Raw(msgspec.json.encode(data.decode()))
    return msgspec.Raw(_one_line(data))


def _one_line(text: bytes) -> bytes:
    return text.replace(b"\n", b" ").replace(b"\r", b" ")


class Subscription(Inbox[EncodedEvent]):
    """One client's queue. It is closed if it `overflowed`, or the gateway stops."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.overflowed = False
        self._limit = limit
        self._size = 0

    def put(self, items: Sequence[EncodedEvent]) -> None:
        self._size += sum(len(item.lines) for item in items)
        if len(self.items) + len(items) > self._limit or self._size > QUEUE_BYTES_MAX:
            self.overflowed = True
            self.items.clear()
            self.close()
        if not self.overflowed:
            super().put(items)

    async def next(self, timeout_seconds: float) -> list[EncodedEvent]:
        """All that has come; waits for something, and returns nothing when the time is over."""
        await self.wait(asyncio.get_running_loop().time() + timeout_seconds)
        arrived = list(self.items)
        self.items.clear()
        self._size = 0
        return arrived


class Subscriptions:
    """All clients that follow; a listener of the tail."""

    def __init__(self, subscriptions_max: int, queue_max: int) -> None:
        self._subscriptions_max = subscriptions_max
        self._queue_max = queue_max
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._subscriptions)

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """A queue of the feed. Raises `Problem` if there are too many."""
        if len(self._subscriptions) >= self._subscriptions_max:
            detail = f"{self._subscriptions_max} clients follow the events already"
            raise Problem(Kind.TOO_MANY_STREAMS, detail)
        subscription = Subscription(self._queue_max)
        if self._closed:
            subscription.close()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def consume(self, pool: str, entries: Sequence[Entry]) -> None:
        if not self._subscriptions:
            return
        encoded = [encode_event(pool, entry) for entry in entries]
        for subscription in self._subscriptions:
            subscription.put(encoded)

    def close(self) -> None:
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()


STEPS_MAX: Final = 512


class ObservedHead:
    """How far one log was read, and when it got there: to know how late the views are."""

    def __init__(self, seq: int = 0, ts: int = 0) -> None:
        self.seq = seq
        self._steps: deque[tuple[int, int]] = deque([(seq, ts)], maxlen=STEPS_MAX)

    def advance(self, seq: int, ts: int) -> None:
        """A recovered log may continue below what was read of it: those steps are void."""
        while self._steps and self._steps[-1][0] >= seq:
            self._steps.pop()
        self.seq = seq
        self._steps.append((seq, ts))

    def behind_since(self, seq: int) -> int:
        """The log time of the first known step past `seq`; 0 if there is none."""
        return next((ts for reached, ts in self._steps if reached > seq), 0)


def require_readable(entry: Entry, *, with_body: bool) -> None:
    """Raises `UnknownEvent` unless this version can read it; `with_body`: its body, too."""
    if not well_formed(entry):
        raise foreign_entry()
    stream_id, fields = entry
    if with_body:
        events.decode_entry(stream_id, fields)
    events.require_known(fields[1].decode(), int(fields[3]))


def foreign_entry() -> UnknownEvent:
    return UnknownEvent("entry that is no event", 0, None)


def entry_seq(entry: Entry) -> int:
    """The seq of an entry; 0 of one that is no event."""
    return int(entry[1][5]) if well_formed(entry) else 0
