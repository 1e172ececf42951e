"""What a request has read so far; the headers of its answer are made from it."""

import re
from collections.abc import Mapping
from typing import Final

from aiohttp import web
from msgspec import Struct

from gateway.wire.problems import Kind, Problem

POSITION_HEADER: Final = "Muster-Position"
POSITION_LENGTH_MAX: Final = 1_000
"""Of that header: what was used least recently is left out."""
_POSITION: Final = re.compile(r"(?:([a-z0-9_-]{0,63}):)?([0-9]{1,15})")


class ReadState(Struct):
    """How new the answer is, by log: `requested` by its client, and as it is."""

    requested: dict[str, int] = {}
    """The client used the first of these logs last."""
    position: dict[str, int] = {}
    stale: bool = False
    age_ms: int | None = None
    """Of a stale answer: its maximum age, if that is known."""
    as_of: str = ""
    """The point in time that the answer is about."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Those of the answer."""
        headers = {}
        if self.position:
            headers[POSITION_HEADER] = self._position_header()
        if self.as_of:
            headers["Muster-As-Of"] = self.as_of
        if self.stale:
            headers["Muster-Stale"] = "true"
            if self.age_ms is not None:
                headers["Muster-Age-Ms"] = str(self.age_ms)
        return headers

    def _position_header(self) -> str:
        """What this request used, then what its client used before."""
        before = {pool: seq for pool, seq in self.requested.items() if pool not in self.position}
        text = ",".join([f"{pool}:{seq}" for pool, seq in {**self.position, **before}.items()])
        if len(text) < POSITION_LENGTH_MAX:
            return text
        return text[:POSITION_LENGTH_MAX].rpartition(",")[0]


def requested_position(request: web.Request) -> dict[str, int]:
    """The `Muster-Position` of a request: `pool:seq`, several with commas. Raises `Problem`."""
    positions: dict[str, int] = {}
    if POSITION_HEADER not in request.headers:
        return positions
    header = ",".join(request.headers.getall(POSITION_HEADER, ()))
    for item in filter(None, header.split(",")):
        position = _POSITION.fullmatch(item.strip())
        if position is None:
            detail = f"{POSITION_HEADER}: pool:seq was expected, not {item.strip()[:100]!r}"
            raise Problem(Kind.INVALID_REQUEST, detail, field=POSITION_HEADER)
        pool, seq = position[1] or "", int(position[2])
        positions[pool] = max(seq, positions.get(pool, 0))
    return positions
