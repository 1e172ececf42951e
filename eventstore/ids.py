"""Identifiers: UUIDv7 (RFC 9562, section 5.7), which sort by the millisecond of their creation."""

import os
import re
import time
from typing import Final

_CANONICAL: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)


_DRAWN: Final = 128
"""Random numbers that are asked of the system at once: asking takes longer than all the rest."""
_unused: Final[list[int]] = []
os.register_at_fork(after_in_child=_unused.clear)


def _random() -> int:
    """80 random bits. Any thread may call it."""
    try:
        return _unused.pop()
    except IndexError:
        drawn = os.urandom(10 * _DRAWN)
        numbers = [int.from_bytes(drawn[at : at + 10], "big") for at in range(0, len(drawn), 10)]
        _unused.extend(numbers[1:])
        return numbers[0]


def new_id() -> str:
    """A new UUIDv7 in its canonical 36-character form."""
    milliseconds = time.time_ns() // 1_000_000
    random = _random()
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | (random >> 64 & 0xFFF) << 64
    value |= 0b10 << 62 | random & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_id(text: str) -> bool:
    """Whether a text has the form of the ids that `new_id` makes."""
    return _CANONICAL.fullmatch(text) is not None
