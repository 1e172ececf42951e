"""What one request has read of the views, and up to which position."""

from typing import Final

from aiohttp import web
from msgspec import Struct


class ReadState(Struct):
    """What a request has read so far; the answer's headers are made from it."""

    requested: dict[str, int]
    position: dict[str, int]
    stale: bool = False
    age_ms: int | None = None
    """Of a stale answer: its maximum age, if that is known."""
    as_of: str = ""
    """The point in time that the answer is about."""


READ_STATE: Final = web.RequestKey("muster.reading", ReadState)
