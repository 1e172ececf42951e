"""Events as they were recorded, and as lines for people.

Fields are not parsed, so that a newer version of an event can be shown, too. A line has time,
position in the log, type, subject and details.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct

from eventstore.language.events import ENTRY_NUMBERS
from muster.terminal import render

if TYPE_CHECKING:
    from eventstore.log.reader import Entry

T = TypeVar("T")
DATA_MAX = 500
"""The number of characters shown of data that cannot be decoded."""
HIDDEN_FIELDS = {
    "at_ms", "config", "deadline_ms", "digest", "due_ms", "expires_ms", "heartbeat_interval",
    "input", "max_idle_time", "memory", "observed", "operation_id", "operation_ms",
    "pending_timeout", "start_time", "window_ms",
}  # fmt: skip
STYLES = {
    **dict.fromkeys(("crashed", "start_failed", "unhealthy", "failed", "lost"), "red"),
    **dict.fromkeys(("suspect", "restarting", "draining", "cordoned"), "yellow"),
    "termination_requested": "yellow",
    **dict.fromkeys(("started", "created", "joined", "recovered", "uncordoned"), "green"),
}
"""By the type of the event, without what comes before its point."""
CATALOGUE = "catalogue"
"""The name of the stream of pools and hosts, used like a pool's name."""
DIGITS = 19
"""Muster writes no numbers with more digits."""


class RecordedEvent(Struct, frozen=True):
    """An event of a stream. `pool` may be `catalogue`."""

    pool: str
    stream_id: str
    fields: Mapping[str, str]

    @property
    def seq(self) -> int:
        return number(self.fields.get("seq", ""))

    @property
    def ms(self) -> int:
        return int(self.stream_id.partition("-")[0])

    def document(self) -> dict[str, object]:
        """The event for JSON: numbers as numbers, `data` as an object."""
        document: dict[str, object] = {"pool": self.pool, "stream_id": self.stream_id}
        for name, value in self.fields.items():
            document[name] = number(value) if name in ENTRY_NUMBERS else value
        with suppress(msgspec.DecodeError, RecursionError):  # else it remains text
            data = self.fields.get("data") or "{}"
            document["data"] = msgspec.json.decode(data, type=msgspec.Raw)
        return document


def number(text: str) -> int:
    """A number of an entry; 0 where it is not one."""
    return int(text) if text.isdecimal() and len(text) < DIGITS else 0


def recorded_from_json(raw: bytes) -> RecordedEvent:
    """An event as the gateway sends it. Raises `msgspec.MsgspecError`, `KeyError`."""
    document = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    texts = {name: bytes(value).decode() for name, value in document.items()}
    for name, text in texts.items():  # as in the stream: text unchanged, other values as JSON
        if text.startswith('"'):
            texts[name] = msgspec.json.decode(text, type=str)
    pool, stream_id = texts.pop("pool"), texts.pop("stream_id")
    return RecordedEvent(pool or CATALOGUE, stream_id, texts)


def recorded_event(pool: str, entry: "Entry") -> RecordedEvent:
    stream_id, flat = entry
    texts = [item.decode(errors="replace") for item in flat]
    return RecordedEvent(pool, stream_id.decode(), dict(zip(texts[::2], texts[1::2], strict=False)))


def printer(
    cells: Callable[[T, bool], list[render.Cell]], document: Callable[[T], object], as_json: bool
) -> Callable[[T], None]:
    """A function that prints an item as fits the output: JSON, plain, or coloured and short."""
    if as_json:
        return lambda item: print(render.json_line(document(item)), flush=True)
    print_line, short = render.line_printer(), render.at_terminal()
    return lambda item: print_line(cells(item, short))


def event_cells(event: RecordedEvent, short: bool) -> list[render.Cell]:
    """The line of an event; `short`: with short ids."""
    fields = event.fields
    shorten = render.short_id if short else str
    kind = render.one_line(fields.get("type", "?"))
    subject = shorten(fields.get("subject", ""))
    worker = fields.get("worker_id", "")
    if worker and worker != fields.get("subject"):
        subject += f"  on {shorten(worker)}"
    if (incarnation := fields.get("incarnation", "")) not in ("", "0", "1"):
        subject += f"  #{incarnation}"
    return [
        render.Cell(f"{render.timestamp(number(fields.get('ts', '')) or event.ms)}  ", "dim"),
        render.Cell(f"{f'{event.pool}:{event.seq}':<20}  "),
        render.Cell(f"{kind:<27}  ", STYLES.get(kind.partition(".")[2], "")),
        render.Cell(f"{render.one_line(subject)}  "),
        render.Cell(render.one_line(details(fields.get("data", ""))), "dim"),
    ]


def details(data: str) -> str:
    """The body of an event, without fields that are only for machines."""
    try:
        body = msgspec.json.decode(data or "{}", type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError):
        return data[:DATA_MAX]
    parts = [_detail(name, value) for name, value in body.items() if name not in HIDDEN_FIELDS]
    if isinstance(due := body.get("due_ms"), int):
        parts.append(f"again at {render.timestamp(due)}")
    return "  ".join(part for part in parts if part)


def _detail(name: str, value: object) -> str:
    if name == "error" and isinstance(value, dict):
        return f"{value.get('type')}: {str(value.get('message', ''))[:200]}"
    if name == "reason":
        return str(value)
    if isinstance(value, dict):
        value = ",".join(f"{key}={item}" for key, item in value.items())
    return f"{name}={value}" if value not in ("", None) else ""
