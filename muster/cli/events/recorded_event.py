"""An event as it was recorded, with unparsed fields: a newer version of it can be shown, too."""

from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from eventstore.log.reader import Entry

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
        return number(self.fields.get("seq"))

    @property
    def ms(self) -> int:
        return int(self.stream_id.partition("-")[0])

    def document(self) -> dict[str, object]:
        """The event for JSON: numbers as numbers, `data` as an object."""
        numbers = ("version", "seq", "incarnation", "epoch", "ts")
        document: dict[str, object] = {"pool": self.pool, "stream_id": self.stream_id}
        for name, value in self.fields.items():
            document[name] = number(value) if name in numbers else value
        document["data"] = _data(self.fields.get("data", ""))
        return document


def number(text: str | None) -> int:
    """A number of an entry; 0 where it is not one."""
    digits = text or ""
    return int(digits) if digits.isdecimal() and len(digits) < DIGITS else 0


def _data(text: str) -> object:
    """The decoded object; text where it is not JSON."""
    try:
        return msgspec.json.decode(text or "{}", type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return text


def recorded_event(pool: str, entry: Entry) -> RecordedEvent:
    stream_id, flat = entry
    texts = [item.decode(errors="replace") for item in flat]
    return RecordedEvent(pool, stream_id.decode(), dict(zip(texts[::2], texts[1::2], strict=False)))


EventFilter = Callable[[RecordedEvent], bool]
