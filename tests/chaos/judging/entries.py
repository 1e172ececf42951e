"""An event of a stream or of the archive, in one form that can be compared."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

from tests.chaos.judging.offences import Offence

STREAM_FIELDS: Final = (
    "type",
    "version",
    "seq",
    "event_id",
    "subject",
    "incarnation",
    "worker_id",
    "epoch",
    "correlation_id",
    "causation_id",
    "traceparent",
    "actor",
    "ts",
    "data",
)
NUMBERS: Final = frozenset({"version", "seq", "incarnation", "epoch", "ts", "generation"})
CATALOGUE: Final = ""
"""In place of a pool's name, here as in the archive."""


class Malformed(ValueError):
    """An entry that is none."""


@dataclass(frozen=True)
class Entry:
    """One event. `generation` is not in a stream's entry: it follows from its position."""

    pool: str
    generation: int
    seq: int
    stream_id: str
    type: str
    version: int
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
    data: str

    @cached_property
    def body(self) -> dict[str, Any]:
        """The event's own fields; those with their default are left out."""
        try:
            found = json.loads(self.data)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def offence(self, invariant: int, why: str) -> Offence:
        return Offence(
            invariant, why, self.pool, self.generation, self.seq, self.type, self.subject
        )


NAMES: Final = tuple(field.name for field in fields(Entry))


def of_stream(pool: str, stream_id: str, flat: Sequence[str]) -> Entry:
    """Names and values in turn, as Redis has them. Raises `Malformed`."""
    if tuple(flat[::2]) != STREAM_FIELDS:
        raise Malformed(f"entry {stream_id} has the fields {' '.join(flat[::2])}")
    return of_row({**dict(zip(flat[::2], flat[1::2], strict=True)), "pool": pool, "id": stream_id})


def of_row(row: Mapping[str, Any]) -> Entry:
    """A row of the archive. Raises `Malformed`."""
    found = {"stream_id": row.get("id", ""), "generation": 0, **row}
    try:
        values: list[Any] = [
            int(found[n] or 0) if n in NUMBERS else str(found[n] or "") for n in NAMES
        ]
        return Entry(*values)
    except (KeyError, ValueError) as error:
        raise Malformed(f"entry {found['stream_id']}: {error!r}") from None


def order(stream_id: str) -> tuple[int, int]:
    """A stream's ids sort as two numbers, not as text."""
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds or 0), int(number or 0)
