"""What operators ask of workers: the bodies of these requests."""

from typing import Annotated, ClassVar, TypeAlias

from msgspec import Meta

from gateway.wire.requests import Cursor, PageSize, PoolName, Request, text

Deadline: TypeAlias = Annotated[float, Meta(ge=0, le=31_536_000)]
"""In seconds; 0: at once."""


WebhookName = Annotated[
    str,
    text(r"(?!dead$)[a-z0-9_-]{1,63}", "1 to 63 lower-case letters, digits, _ or -, and not dead"),
]
DeadLetterId = Annotated[
    str,
    text(
        r"[a-z0-9_-]{1,63}:[0-9a-f-]{36}",
        "an id from the list of dead letters: the webhook and the id of the message, with a colon"
        " between",
    ),
]


class ReplaceRequest(Request, frozen=True):
    """Why a pool's workers are replaced, and how. The body may be left out."""

    may_be_empty: ClassVar[bool] = True
    reason: Annotated[str, Meta(min_length=1, max_length=200)] = "requested"
    max_unavailable: Annotated[int, Meta(ge=1, le=10_000)] = 1
    deadline_seconds: Deadline = 0.0


class CancelRequest(Request, frozen=True):
    """Why a replacement is cancelled. The body may be left out."""

    may_be_empty: ClassVar[bool] = True
    reason: Annotated[str, Meta(min_length=1, max_length=200)] = "requested"


class CordonRequest(Request, frozen=True):
    """Why a worker is cordoned, or is not any more. The body may be left out."""

    may_be_empty: ClassVar[bool] = True
    reason: Annotated[str, Meta(min_length=1, max_length=200)] = "requested"


class DrainRequest(Request, frozen=True):
    """Why a worker is to release its agents and end, and after how many seconds.

    Until then they may end by themselves. The body may be left out.
    """

    may_be_empty: ClassVar[bool] = True
    reason: Annotated[str, Meta(min_length=1, max_length=200)] = "requested"
    deadline_seconds: Deadline = 0.0


class WebhookRequest(Request, frozen=True):
    """An empty object. The body may be left out."""

    may_be_empty: ClassVar[bool] = True


class AlertQuery(Request, frozen=True):
    """Which alerts. `include_closed`: also those that are over, `limit` of them a page."""

    pool_name: PoolName | None = None
    include_closed: bool = False
    limit: PageSize = 100
    cursor: Cursor | None = None
