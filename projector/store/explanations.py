"""What `explain` answers: lines of plain English, each with its event and the cause of that.

A position is `pool:seq`; that of an event of the catalogue has no name in front of the colon.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from projector.store.rows import Timed

LEFT_OUT_MAX: Final = 10_000


class Cause(Timed, frozen=True, kw_only=True):
    """The event that another one follows from; only its id is known if it is not near."""

    event: str
    position: str = ""
    type: str = ""
    text: str = ""
    ts: int | None = None
    ts_time: datetime | None = None


class Line(Timed, frozen=True, kw_only=True):
    """What happened, and why. `cause` null: it follows from a request, or from what was counted."""

    text: str
    event: str
    """Its id."""
    position: str
    type: str
    actor: str
    """Who wrote it."""
    worker_id: str
    incarnation: int
    cause: Cause | None
    ts: int | None
    ts_time: datetime | None = None


class Explanation(Struct, frozen=True, kw_only=True):
    """Why an agent, a worker or a pool is as it is: the first event, and the last ones.

    `left_out`: how many events there are between these; `LEFT_OUT_MAX`: so many or more.
    """

    kind: str
    name: str
    pool_name: str
    now: str
    """Its state, and since when."""
    lines: Sequence[Line]
    left_out: int = 0
