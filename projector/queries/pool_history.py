"""The history of a pool for charts: what it had and what happened, per minute, hour or day (UTC).

Minutes in which nothing changed have no row; here they have a point all the same.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection

from eventstore.errors import MusterError
from projector.fold.projection import read_positions
from projector.history.history import History
from projector.queries.spans import Span
from projector.queries.usage_sums import PoolSums
from projector.store.rows import Position
from projector.store.tables import SERVING, run
from projector.store.usage_rows import (
    LEVELS,
    MINUTE_MS,
    MINUTES_OF,
    NAMES,
    POOL_ACCOUNT,
    HistoryPoint,
    PoolHistory,
    Sums,
)
from projector.usage.ledger import grain_at
from projector.usage.tally import brought_to

POINTS_MAX: Final = 1_500
_ONLY_POOL: Final = f"AND a.account = {POOL_ACCOUNT}"
_OF_POOL: Final = f"pool_name = ? AND account = {POOL_ACCOUNT}"
_LAST_OF_STEPS: Final = f"""
SELECT {", ".join(NAMES)} FROM {{{{}}}}usage_sums WHERE {_OF_POOL} AND minute IN (
    SELECT max(minute) FROM {{{{}}}}usage_sums WHERE {_OF_POOL} AND minute >= ? AND minute < ?
    GROUP BY minute / {{minutes}}) ORDER BY minute
"""
_ROWS: Final = {name: _LAST_OF_STEPS.format(minutes=step) for name, step in MINUTES_OF.items()}
"""By the length of the steps. A year has a row for each hour, of which few are needed for days."""


class HistoryRefused(MusterError):
    """The steps are too short for the span, or for what is stored of it."""


class Steps(Struct, frozen=True):
    """From the start of a step to a time, which is not included."""

    since_ms: int
    until_ms: int
    step: str

    @property
    def step_ms(self) -> int:
        return MINUTES_OF[self.step] * MINUTE_MS


def steps_of(since_ms: int, until_ms: int, step: str | None, grain: int) -> Steps:
    """A span whose steps are as asked for, else the shortest of which there are not too many.

    `grain`: of how many minutes the oldest part of it is stored. Raises `HistoryRefused`.
    """
    why = ""
    for name, minutes in MINUTES_OF.items():
        if step not in (None, name):
            continue
        length = minutes * MINUTE_MS
        first = since_ms // length * length
        if minutes < grain:
            why = f"it is not stored by the {name} any more: take longer steps, or less time"
        elif -(-(until_ms - first) // length) > POINTS_MAX:
            why = f"there are more than {POINTS_MAX:,} steps: take longer ones, or less time"
        else:
            return Steps(first, max(until_ms, first), name)
    raise HistoryRefused(why)


async def pool_history(
    history: History, pool: str, span: Span, step: str | None = None
) -> PoolHistory:
    """The points of a span. Raises `HistoryRefused`, and what the history raises."""

    def work(connection: Connection, deadline: float) -> PoolHistory:
        ts = read_positions(connection, SERVING).get(pool, Position(pool)).ts
        until_ms, grain = span.end(connection, [pool]), grain_at(span.since_ms, ts)
        steps = steps_of(span.since_ms, until_ms, step, grain)
        return _history(PoolSums(connection, deadline, pool, ts, _ONLY_POOL), steps)

    return await history.query(work)


def _history(reading: PoolSums, span: Steps) -> PoolHistory:
    connection, pool = reading.connection, reading.pool
    start, end = _only(reading, span.since_ms), _only(reading, span.until_ms)
    of_span = (pool, pool, span.since_ms // MINUTE_MS, span.until_ms // MINUTE_MS)
    rows = [Sums(*row) for row in run(connection, _ROWS[span.step], *of_span)]
    return PoolHistory(
        pool_name=pool,
        step=span.step,
        since=span.since_ms,
        until=span.until_ms,
        points=[*_points(span, start, rows, end)],
    )


def _only(reading: PoolSums, at_ms: int) -> Sums:
    found, none = reading.at(at_ms), Sums(reading.pool, 0, 0)
    return next((s for a, s in found.items() if a.account == POOL_ACCOUNT), none)


def _points(span: Steps, start: Sums, rows: Sequence[Sums], end: Sums) -> Iterator[HistoryPoint]:
    at, last, later = span.since_ms, start, iter([*rows, None])
    row = next(later)
    while at < span.until_ms:
        until = min(at + span.step_ms, span.until_ms)
        after = last
        while row is not None and row.minute * MINUTE_MS < until:
            after, row = row, next(later)
        after = end if until == span.until_ms else brought_to(after, until)
        yield _point(at, until, last, after)
        at, last = until, after


def _point(since: int, until: int, old: Sums, new: Sums) -> HistoryPoint:
    levels = {name: getattr(new, name) for name in LEVELS}
    sums = {n: getattr(new, f"{n}_ms") - getattr(old, f"{n}_ms") for n in LEVELS}
    means = {f"{name}_mean": round(total / (until - since), 6) for name, total in sums.items()}
    return HistoryPoint(
        since=since,
        arrivals=new.requested - old.requested,
        ends=new.ended - old.ended,
        failures=new.failures - old.failures,
        losses=new.losses - old.losses,
        restarts=new.restarts - old.restarts,
        cold_starts=new.cold_starts - old.cold_starts,
        **levels,
        **means,
    )
