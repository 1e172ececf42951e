"""What one request reads: the views, and up to which position."""

from typing import Final

from aiohttp import web
from msgspec import Struct


class ReadState(Struct):
    """What a request has seen so far; the answer's headers are made from it."""

    requested: dict[str, int]
    position: dict[str, int]
    stale: bool = False
    age_ms: int | None = None
    """Of a stale answer: what it tells held at most so long ago, if that is known."""
    as_of: str = ""
    """The moment of the past that the answer is of."""


READ_STATE: Final = web.RequestKey("muster.reading", ReadState)
