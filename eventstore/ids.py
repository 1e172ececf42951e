"""Identifiers: UUIDv7 (RFC 9562, section 5.7), which sort by the millisecond of their creation."""

import os
import re
import time
from functools import lru_cache
from typing import Final

_CANONICAL: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)


_DRAWN: Final = 128
"""Random parts that are asked of the system at once: asking takes longer than all the rest."""
_VARIANTS: Final = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
_unused: Final[list[str]] = []
os.register_at_fork(after_in_child=_unused.clear)


def _random_part() -> str:
    """What follows the time: the version, the variant and 74 random bits. For any thread."""
    try:
        return _unused.pop()
    except IndexError:
        text = os.urandom(10 * _DRAWN).hex()
        drawn = [text[at : at + 20] for at in range(0, len(text), 20)]
        parts = [f"7{one[:3]}-{_VARIANTS[one[3]]}{one[4:7]}-{one[8:]}" for one in drawn]
        _unused.extend(parts[1:])
        return parts[0]


def new_id() -> str:
    """A new UUIDv7 in its canonical 36-character form."""
    return _time_part(time.time_ns() // 1_000_000) + _random_part()


@lru_cache(maxsize=1)
def _time_part(milliseconds: int) -> str:
    text = f"{milliseconds:012x}"
    return f"{text[:8]}-{text[8:]}-"


def is_id(text: str) -> bool:
    """Whether a text has the form of the ids that `new_id` makes."""
    return _CANONICAL.fullmatch(text) is not None
