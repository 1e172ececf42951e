"""Usage by the fold of the judge, which shares nothing with Muster's, for tests of the latter."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from projector.store.rows import EventRow
from projector.store.usage_rows import Usage
from tests.chaos.judging import usage as judged
from tests.chaos.judging.entries import of_row
from tests.chaos.judging.usage import Account, Times

COUNTS = ("requested", "ended", "failures", "losses", "restarts", "claims", "cold_starts")
SECONDS = {
    "agent_seconds": "agents_ms",
    "waiting_seconds": "pending_ms",
    "slot_seconds": "slots_used_ms",
    "worker_seconds": "workers_ms",
    "capacity_seconds": "slots_ms",
}


def stretched(rows: Sequence[EventRow], factor: int) -> list[EventRow]:
    """The same events, with so many times the time between them."""
    first_ms = rows[0].ts
    times = [first_ms + (row.ts - first_ms) * factor for row in rows]
    return [
        replace(row, ts=ts, stream_id=f"{ts}-{row.seq}")
        for row, ts in zip(rows, times, strict=True)
    ]


def times_of(rows: Iterable[EventRow], pool: str) -> Mapping[Account, Times]:
    return judged.times_of(of_row(asdict(row)) for row in rows if row.pool == pool)


def measured(times: Times, since_ms: int, until_ms: int) -> dict[str, Any]:
    """As a row of the answer, but for its names."""
    found = judged.measure(times, since_ms, until_ms)
    lived = sum(
        name == "agents" and since < since_ms and (until is None or until >= since_ms)
        for name, _, since, until in times.lasting
    )
    return {
        "agents": lived + found["requested"],
        **{name: found[name] for name in COUNTS},
        **{name: found[column] / 1000 for name, column in SECONDS.items()},
    }


def numbers(usage: Usage) -> dict[str, Any]:
    """What a row of an answer has, but for its names."""
    found: dict[str, Any] = msgspec.to_builtins(usage)
    return {name: found[name] for name in ("agents", *COUNTS, *SECONDS)}


def team_of(account: Account) -> str | None:
    labels: dict[str, str] = msgspec.json.decode(account[2])
    return labels.get("team")
