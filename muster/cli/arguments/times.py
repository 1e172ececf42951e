"""Times as people write them: `10m`, `14:03`, `2026-11-24T14:03`, an epoch in seconds or ms."""

import re
import time
from datetime import datetime, timedelta

from muster.cli.arguments.command import BadInput
from muster.settings.values import abbreviate

_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FIRST_MS = 100_000_000_000
"""Smaller numbers are seconds (up to the year 5138), larger ones milliseconds (since 1973)."""
LAST_MS = 253_402_300_800_000
"""The end of the year 9999, the latest time that Python can represent."""


def span_seconds(text: str) -> float | None:
    """`90s`, `10m`, `1h30m` in seconds; None if it is not such a span."""
    if not _SPAN.fullmatch(text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def time_ms(text: str, flag: str, now: float | None = None, *, alternative: str = "") -> int:
    """A point in time in ms since 1970. Raises `BadInput`.

    `now`: seconds since 1970, for tests. `alternative`: what else the flag accepts, for messages.
    """
    now = time.time() if now is None else now
    try:
        found = _time_ms(text, now)
    except (ValueError, OverflowError):
        found = LAST_MS
    if found >= LAST_MS:
        raise BadInput(
            f"{flag}: {abbreviate(text)} is not a time such as 10m, 14:03 or 2026-11-24T14:03"
            f"{f', nor {alternative}' if alternative else ''}"
        )
    return max(found, 0)


def _time_ms(text: str, now: float) -> int:
    if (ago := span_seconds(text.removesuffix(" ago"))) is not None:
        return int((now - ago) * 1000)
    if text.isdecimal() and text.isascii():
        return int(text) if int(text) >= FIRST_MS else int(text) * 1000
    return _clock_ms(text, now) if CLOCK.fullmatch(text) else _date_ms(text)


def _clock_ms(text: str, now: float) -> int:
    """The most recent such time of day in the local time zone."""
    today = datetime.fromtimestamp(now).astimezone()
    hour, minute, *rest = text.split(":")
    seconds = float(rest[0]) if rest else 0.0
    then = today.replace(
        hour=int(hour),
        minute=int(minute),
        second=int(seconds),
        microsecond=int(seconds % 1 * 1_000_000),
    )
    if then > today:
        then -= timedelta(days=1)
    return int(then.timestamp() * 1000)


def _date_ms(text: str) -> int:
    then = datetime.fromisoformat(text)
    return int((then if then.tzinfo else then.astimezone()).timestamp() * 1000)
