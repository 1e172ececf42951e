"""The parts of the gateway's answers that the command line reads: the Structs that it writes.

Every field has a default and unknown fields are ignored, so that a command line and a gateway
of adjacent versions work together. Times are in milliseconds since 1970.
"""

from typing import Any, TypeVar, cast, get_origin

import msgspec
from msgspec import Struct, defstruct
from msgspec.structs import fields

from projector.store.explanations import Cause, Explanation, Line
from projector.store.rows import AgentRow, PoolRow, WorkerRow
from projector.store.usage_rows import Usage, UsageReport, UsageRow

T = TypeVar("T", bound=Struct)


def _default(kind: Any) -> Any:
    if get_origin(kind) is dict:
        return msgspec.field(default_factory=dict)
    return kind() if isinstance(kind, type) else None


def tolerant(shape: type[T]) -> type[T]:
    """The same Struct in which every field has a default: an older gateway may not send it."""
    missing = [
        (field.name, field.type, _default(field.type)) for field in fields(shape) if field.required
    ]
    made = defstruct(shape.__name__, missing, bases=(shape,), frozen=True, kw_only=True)
    return cast("type[T]", made)


@tolerant
class AgentAnswer(AgentRow, frozen=True, kw_only=True):
    """An agent as the gateway answers it."""


@tolerant
class PoolAnswer(PoolRow, frozen=True, kw_only=True):
    """A pool as the gateway answers it."""


@tolerant
class WorkerAnswer(WorkerRow, frozen=True, kw_only=True):
    """A worker as the gateway answers it."""


@tolerant
class CauseAnswer(Cause, frozen=True, kw_only=True):
    """What a line follows from, as the gateway answers it."""


@tolerant
class LineAnswer(Line, frozen=True, kw_only=True):
    """A line of an explanation as the gateway answers it."""

    cause: CauseAnswer | None = None


@tolerant
class ExplanationAnswer(Explanation, frozen=True, kw_only=True):
    """An explanation as the gateway answers it."""

    lines: tuple[LineAnswer, ...] = ()


@tolerant
class UsageRowAnswer(UsageRow, frozen=True, kw_only=True):
    """The usage of a group as the gateway answers it."""


@tolerant
class UsageAnswer(UsageReport, frozen=True, kw_only=True):
    """The usage of a span as the gateway answers it."""

    rows: tuple[UsageRowAnswer, ...] = ()
    total: Usage = Usage()


class ParkedAnswer(Struct, frozen=True, kw_only=True):
    id: str = ""
    pool_name: str = ""
    source: str = ""
    subject: str = ""
    reason: str = ""
    content: dict[str, str] = {}
    parked_at: int = 0


class AlertAnswer(Struct, frozen=True, kw_only=True):
    name: str = ""
    severity: str = ""
    subject: str = ""
    message: str = ""
    action: str = ""
    since: int | None = None
    pool_name: str = ""
    count: int = 1
    runbook: str = ""
    alert_id: str = ""
    closed_at: int | None = None


class WebhookAnswer(Struct, frozen=True, kw_only=True):
    name: str = ""
    source: str = "file"
    address: str = ""
    severity: str = ""
    pools: tuple[str, ...] = ()
    secret: str | None = None
    """That was made for it with this call."""
    waiting: int = 0
    dead: int = 0
    error: str = ""


class WebhookTestAnswer(Struct, frozen=True, kw_only=True):
    delivered: bool = False
    http_status: int = 0
    error: str = ""
    seconds: float = 0.0


class DeadLetterAnswer(Struct, frozen=True, kw_only=True):
    id: str = ""
    webhook: str = ""
    type: str = ""
    alert_id: str = ""
    attempts: int = 0
    error: str = ""
    created_at: int = 0
