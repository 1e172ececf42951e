"""From entries of a stream or rows of the archive to events that may be folded next.

Here the promise of a log is checked: `seq` is dense, and every event can be read. Events are
admitted up to the first that breaks it, with a sentence that gives the reason; none is skipped.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from eventstore.errors import UnknownEvent
from eventstore.language import events as log_events
from eventstore.log.reader import Entry
from projector.store.mapping import chunks
from projector.store.rows import EventRow, Position

OK: Final = "ok"
DIGITS_MAX: Final = 18
"""Numbers of so many digits fit into 64 bits."""
REASON_MAX: Final = 500
DECODED_AT_ONCE: Final = 100
"""Entries: a page of them can have many megabytes."""
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}".encode()
FIELD_NAMES: Final = [name.encode() for name in log_events.ENTRY_FIELDS]


class Admitted(Struct, frozen=True):
    """Events that follow a position, as they are archived and as they are folded."""

    rows: list[EventRow]
    events: list[log_events.Event]
    problem: str = ""
    """Why the next one was refused; empty if none was."""


def admit(position: Position, rows: Sequence[EventRow]) -> Admitted:
    """The longest prefix of `rows` that follows `position` without a gap and can be read."""
    events: list[log_events.Event] = []
    problem = ""
    for expected, row in enumerate(rows, position.seq + 1):
        if row.seq != expected:
            problem = _out_of_order(expected - 1, row)
            break
        try:
            events.append(event_of(row))
        except (UnknownEvent, msgspec.DecodeError, RecursionError) as error:
            problem = _unreadable(row, error)
            break
    return Admitted(list(rows[: len(events)]), events, problem)


def _out_of_order(last: int, row: EventRow) -> str:
    if row.seq <= last:
        return (
            f"out of order: another event came at seq {row.seq} ({row.stream_id}), after seq {last}"
        )
    return f"gap: seq {last + 1} is missing before seq {row.seq} ({row.stream_id})"


def _unreadable(row: EventRow, error: Exception) -> str:
    reason, advice = str(error)[:REASON_MAX], "its data is damaged"
    if isinstance(error, UnknownEvent):
        advice = "run a projector of the version that wrote it, or newer"
    else:
        reason = f"{row.type[:64]!r} version {row.version}: {reason}"
    at = f"seq {row.seq} ({row.stream_id})"
    return f"unreadable event: {at}: {reason}; nothing was skipped: {advice}"


def read_entries(position: Position, entries: Iterable[Entry]) -> list[EventRow]:
    """Entries after a position, as they are archived.

    Entries do not name their generation: it is that of the position, until an event says that the
    log was recovered.
    """
    pool, generation = position.pool, position.generation
    rows = []
    for row in rows_of(pool, generation, entries):
        if row.type == log_events.LogRecovered.type and row.seq > position.seq:
            generation = _recovered_generation(row) or generation
        rows.append(row if row.generation == generation else replace(row, generation=generation))
    return rows


def _recovered_generation(row: EventRow) -> int:
    try:
        body = log_events.decode_body(row.type, row.version, row.data)
    except (UnknownEvent, msgspec.DecodeError):
        return 0  # `admit` reports what is wrong with it
    return body.generation if isinstance(body, log_events.LogRecovered) else 0


def read_entry(pool: str, generation: int, entry: Entry) -> EventRow:
    return next(rows_of(pool, generation, [entry]))


def rows_of(pool: str, generation: int, entries: Iterable[Entry]) -> Iterator[EventRow]:
    """Entries as they are archived; one with other fields becomes one of no known type."""
    # Column by column: that takes half as long as entry by entry.
    width = len(FIELD_NAMES)
    for some in chunks(entries, DECODED_AT_ONCE):
        fields = [*chain.from_iterable(fields for _, fields in some)]
        widths = {len(fields) for _, fields in some}
        if widths != {2 * width} or fields[::2] != FIELD_NAMES * len(some):
            fields = [*chain.from_iterable(_usual(fields) for _, fields in some)]
        texts = _texts_of([*(stream_id for stream_id, _ in some), *fields[1::2]])
        columns: dict[str, Iterable[Any]] = {
            name: texts[at::width] for at, name in enumerate(log_events.ENTRY_FIELDS, len(some))
        }
        for name in log_events.ENTRY_NUMBERS:
            columns[name] = map(number_of, columns[name])
        columns |= {"pool": repeat(pool), "generation": repeat(generation)}
        columns["stream_id"] = texts[: len(some)]
        yield from map(EventRow, *(columns[name] for name in EventRow.__struct_fields__))


def _usual(fields: Sequence[bytes]) -> Sequence[bytes]:
    """The fields of an entry; of one with others a type that is not known."""
    if list(fields[::2]) == FIELD_NAMES:
        return fields
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    found[b"type"] = b"entry with other fields"
    return [part for name in FIELD_NAMES for part in (name, found.get(name, b""))]


def entry_of(row: EventRow) -> Entry:
    """The inverse of `read_entry`: an archived event as an entry of its stream."""
    fields: list[bytes] = []
    for name in log_events.ENTRY_FIELDS:
        value = getattr(row, name)
        empty = value == 0 and name in ("incarnation", "epoch")
        fields += (name.encode(), b"" if empty else str(value).encode())
    return row.stream_id.encode(), fields


def _texts_of(values: Sequence[bytes]) -> list[str]:
    """All decoded in one go, without U+0000, which PostgreSQL cannot store."""
    joined = b"\0".join(values)
    if joined.count(b"\0") >= len(values):  # there is one within a value
        joined = b"\0".join(value.replace(b"\0", _REPLACEMENT) for value in values)
    return joined.decode(errors="replace").split("\0")


def number_of(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= DIGITS_MAX else 0


def event_of(row: EventRow) -> log_events.Event:
    """Raises `UnknownEvent`, and `msgspec.DecodeError` for what is not what it must be."""
    if len(row.subject) > log_events.NAME_MAX or len(row.worker_id) > log_events.NAME_MAX:
        require_short_names(row.subject, row.worker_id)
    body = log_events.decode_body(row.type, row.version, row.data)
    # Written out, which takes half as long as by the names of the fields.
    cause = (row.correlation_id, row.causation_id, row.traceparent, row.actor)
    of_worker = (row.event_id, row.subject, row.incarnation, row.worker_id, row.epoch)
    return log_events.Event(body, *of_worker, *cause, row.seq, row.ts, row.stream_id)


def require_short_names(*names: str) -> None:
    """Raises `msgspec.ValidationError` for a name that is too long for a key or an index."""
    if max(map(len, names)) > log_events.NAME_MAX:
        raise msgspec.ValidationError(f"a name of more than {log_events.NAME_MAX} characters")


def position_after(position: Position, admitted: Admitted) -> Position:
    """The position after what was admitted."""
    last: Position | EventRow = admitted.rows[-1] if admitted.rows else position
    status = admitted.problem or OK
    return Position(position.pool, last.generation, last.seq, last.stream_id, last.ts, status)
