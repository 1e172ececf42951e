"""A span for each event that was projected, as far as its trace is sampled.

Imported only with `otel` on. It begins with the time of the event and ends with the commit: its
length is how far the views were behind.
"""

import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from eventstore.telemetry.telemetry import Telemetry, context_of, is_sampled
from projector.fold.projection import AppliedBatch
from projector.store.rows import EventRow

SPANS_MAX: Final = 500
"""Of one batch: while the projector catches up, most events are left out."""


def traced(
    telemetry: Telemetry, on_batch: Callable[[AppliedBatch], None]
) -> Callable[[AppliedBatch], None]:
    """Call `on_batch`, and export the spans of a batch that was committed."""

    def note(applied: AppliedBatch) -> None:
        on_batch(applied)
        _export(telemetry, applied.rows)

    return note


def _export(telemetry: Telemetry, rows: Iterable[EventRow]) -> None:
    sampled = (row for row in rows if is_sampled(row.traceparent))
    for row in islice(sampled, SPANS_MAX):
        attributes: dict[str, str | int] = {
            "muster.pool": row.pool,
            "muster.event": row.type,
            "muster.subject": row.subject,
            "muster.seq": row.seq,
        }
        since_ns = min(row.ts * 1_000_000, time.time_ns())  # clocks differ
        name = f"project {row.type}"
        telemetry.start(name, context_of(row.traceparent), attributes, since_ns=since_ns).end()
