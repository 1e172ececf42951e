"""What a client asks of usage and of the history of a pool."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, field

from gateway.wire.requests import GroupName, Label, PoolName, ProjectId, Request, RoleName
from projector.queries.views import USAGE_ROWS_MAX, Period

Time = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="A time: ISO 8601 with its zone, or ms since 1970",
    ),
]


class SpanQuery(Request, frozen=True):
    """A span includes its start and not its end, which is now at the latest."""

    since: Time | None = None
    until: Time | None = None


class UsageQuery(SpanQuery, frozen=True):
    """Which usage. `since` is the start of this month (UTC) unless it is given, `until` now.

    `by` may be repeated; `per` divides the span at the hours, days or months of UTC.
    """

    pool_name: PoolName | None = None
    role_type: RoleName | None = None
    project_id: ProjectId | None = None
    label: Label | None = None
    by: list[GroupName] = field(default_factory=list)
    per: Period | None = None
    limit: Annotated[int, Meta(ge=1, le=USAGE_ROWS_MAX)] = USAGE_ROWS_MAX


class Step(StrEnum):
    """How long a point of a history is."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


class HistoryQuery(SpanQuery, frozen=True):
    """Which part of a pool's history: the last six hours unless `since` is given.

    `since` is brought to the start of its step. Without `step`: the shortest of which there are not
    too many.
    """

    step: Step | None = None
