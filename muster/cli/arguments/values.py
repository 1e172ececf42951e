"""Parse and check values of the command line. Raises `BadInput`.

Ids, pairs, JSON and seconds; and times as people write them: `10m`, `14:03`, `2026-11-24T14:03`, an
epoch in seconds or ms.
"""

import re
import sys
import time
import tomllib
from collections.abc import Sequence
from datetime import datetime, timedelta
from datetime import time as datetime_time
from pathlib import Path

import msgspec

from muster.cli.arguments.command import BadInput
from muster.settings.settings import abbreviate, locale_advice

AGENT_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FIRST_MS = 100_000_000_000
"""Smaller numbers are seconds (up to the year 5138), larger ones milliseconds (since 1973)."""
LAST_MS = 253_402_300_800_000
"""The end of the year 9999, the latest time that Python can represent."""


def pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    """Parse texts such as `k=v`."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadInput(f"{flag}: {abbreviate(text)} is not of the form name=value")
        if name in found:
            raise BadInput(f"{flag}: {abbreviate(name)} is given twice")
        found[name] = value
    return found


def json_object(text: str, flag: str) -> dict[str, object]:
    """A JSON object: given directly, from a file as `@file`, or from standard input as `@-`."""
    try:
        raw = _from_file(text[1:]) if text.startswith("@") else text.encode()
        return msgspec.json.decode(raw, type=dict[str, object])
    except UnicodeEncodeError as error:
        raise BadInput(f"{flag}: this is not UTF-8{locale_advice()}") from error
    except OSError as error:
        raise BadInput(f"{flag}: {abbreviate(text[1:])}: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise BadInput(f"{flag}: expected a JSON object: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"{flag}: this is not JSON: {error}") from error
    except ValueError as error:  # a path with U+0000
        raise BadInput(f"{flag}: {abbreviate(text[1:])} is not the name of a file") from error


def _from_file(name: str) -> bytes:
    return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()


def seconds(text: str, flag: str) -> float:
    """A number of seconds that is not negative."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 31_536_000:
        raise BadInput(f"{flag}: {abbreviate(text)} is not a number of seconds")
    return number


def span(text: str, flag: str) -> float:
    """A time span such as `90s`, `10m` or `1h30m`, or a number of seconds."""
    found = span_seconds(text)
    if found is not None:
        return found
    try:
        return seconds(text, flag)
    except BadInput as error:
        what = f"{abbreviate(text)} is not a time span such as 90s, 10m or 1h30m"
        raise BadInput(f"{flag}: {what}") from error


def setting(text: str) -> object:
    """A value of a pool's settings: JSON, or a list or table as in `muster.toml`; else text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return _list_or_table(text)


def _list_or_table(text: str) -> object:
    try:
        found = tomllib.loads(f"value = {text}") if text.startswith(("[", "{")) else {}
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return found["value"] if found.keys() == {"value"} else text


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
    clock = datetime_time.fromisoformat(text if text[2] == ":" else f"0{text}")
    then = datetime.combine(today, clock, today.tzinfo)
    if then > today:
        then -= timedelta(days=1)
    return int(then.timestamp() * 1000)


def _date_ms(text: str) -> int:
    then = datetime.fromisoformat(text)
    return int((then if then.tzinfo else then.astimezone()).timestamp() * 1000)
