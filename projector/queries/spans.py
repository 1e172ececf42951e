"""Spans of time: from a time up to and without another, and their parts at full hours of UTC."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection

from eventstore.errors import MusterError
from projector.store.tables import run
from projector.store.usage_rows import POOL_ACCOUNT

STEPS_MAX: Final = 1_000
_HOUR: Final = timedelta(hours=1)
_LAST_CHANGE_OF_ALL: Final = f"""
SELECT at FROM {{}}usage_sums WHERE pool_name = ? AND account = {POOL_ACCOUNT}
    ORDER BY minute DESC LIMIT 1
"""


class Span(Struct, frozen=True):
    """From a time up to and without another. `is_open`: that is now."""

    since_ms: int
    until_ms: int
    is_open: bool = False

    def end(self, connection: Connection, pools: Iterable[str]) -> int:
        """Now is later than all that these pools have: what came meanwhile need not be left out."""
        if not self.is_open:
            return self.until_ms
        last = (run(connection, _LAST_CHANGE_OF_ALL, pool).scalar() for pool in pools)
        return max([self.until_ms, *(int(at) + 1 for at in last if at is not None)])


class Period(StrEnum):
    """Of which length the parts of a span are."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class TooManyParts(MusterError):
    """The span has more parts than are answered at once."""


def parts_of(since_ms: int, until_ms: int, period: Period | None) -> list[int]:
    """The ends of the parts of a span, its own ends included. Raises `TooManyParts`."""
    ends = [since_ms]
    while ends[-1] < until_ms:
        following = until_ms if period is None else _next_start(ends[-1], period)
        ends.append(min(following, until_ms))
        if len(ends) > STEPS_MAX + 1:
            raise TooManyParts(f"a span has at most {STEPS_MAX:,} parts: take longer ones")
    return ends if len(ends) > 1 else [since_ms, since_ms]


def _next_start(ms: int, period: Period) -> int:
    then = datetime.fromtimestamp(ms // 1000, UTC).replace(minute=0, second=0, microsecond=0)
    match period:
        case Period.HOUR:
            then += _HOUR
        case Period.DAY:
            then = then.replace(hour=0) + timedelta(days=1)
        case Period.MONTH:
            then = (then.replace(day=1, hour=0) + timedelta(days=32)).replace(day=1)
    return int(then.timestamp()) * 1000
