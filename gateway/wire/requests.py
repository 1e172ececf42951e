"""What requests may say: Structs that decode them once, at the edge, and describe them.

`/openapi.json` is made from these same Structs; `decoding` reads requests into them.
"""

import re
from enum import StrEnum
from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta, Struct

from eventstore.language.agents import Status
from eventstore.language.events import EVENT_TYPES
from eventstore.language.placement_policy import PRIORITY_MAX
from eventstore.language.pool_config import (
    LABEL_NAME,
    LABEL_VALUE,
    LABELS_MAX,
    PATTERN_WORDS,
    PoolConfig,
)
from eventstore.language.scale_policy import BehaviourSettings
from eventstore.language.schedules import Schedule

PATTERN_DESCRIPTIONS: Final[dict[str, str]] = dict(PATTERN_WORDS)
"""What each pattern expects."""


def text(pattern: str, description: str) -> Meta:
    """A pattern, and what it expects in words: for `/openapi.json` and for refusals.

    A pattern's `$` also matches before a last line break; `(?!\\n)` excludes that.
    """
    pattern = rf"^{pattern}$(?!\n)"
    PATTERN_DESCRIPTIONS[pattern] = description
    return Meta(pattern=pattern, description=description[0].upper() + description[1:])


PoolName = Annotated[str, text(r"[a-z0-9_-]{1,63}", "1 to 63 lower-case letters, digits, _ or -")]
RoleName = Annotated[str, text(r"[A-Za-z0-9._-]{1,63}", "1 to 63 letters, digits, dots, _ or -")]
SearchText = Annotated[str, text(r"[^\x00-\x1f\x7f]{1,128}", "1 to 128 characters, no controls")]
_NAME = text(r"[A-Za-z0-9._:-]{1,128}", "1 to 128 letters, digits, dots, colons, _ or -")
ProjectId = Annotated[str, _NAME]
WorkerId = Annotated[str, _NAME]
ParkedId = Annotated[
    str,
    text(
        r"[a-z0-9_-]{1,63}:(agent|worker|command|heartbeat):[\s\S]{0,1024}",
        "an id from the list of what is parked: the pool, then agent, worker, command or heartbeat,"
        " then the name of what is parked, with colons between",
    ),
]
PlaceOfParked = Annotated[
    str, text(r"[a-z0-9_-]{1,63}:\d{15}:[\s\S]{0,1100}", "a place in the list of what is parked")
]
Identifier = Annotated[
    str,
    text(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "a UUID in lower case"),
]
LabelName = Annotated[
    str,
    text(LABEL_NAME, "1 to 63 letters, digits, dots, slashes, _ or -, the first a letter or digit"),
]
LabelValue = Annotated[
    str, text(LABEL_VALUE, "at most 256 characters, none of them a control character")
]
Label = Annotated[
    str, text(f"{LABEL_NAME}:{LABEL_VALUE}", "a label's name and value with a colon between")
]
GroupName = Annotated[
    str, text(rf"(?:pool|role|project|label:{LABEL_NAME})", "pool, role, project or label:NAME")
]
"""What usage is grouped by."""
EventType = Annotated[
    str,
    text(rf"(?:{'|'.join(map(re.escape, EVENT_TYPES))})", f"one of {', '.join(EVENT_TYPES)}"),
    Meta(extra_json_schema={"enum": list(EVENT_TYPES)}),
]
"""A type that this version knows."""
AsOfParameter = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4096,
        description="As it was then: a time (ISO 8601 with its zone, or ms since 1970), or after an"
        " event (pool:seq or pool:generation:seq; several with commas)",
    ),
]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
SCHEMA_REFERENCE: Final = "#/components/schemas/{name}"
SETTING_SHAPES: Final = (BehaviourSettings, Schedule)
"""Settings that are tables."""
_, _CONFIG_SHAPES = msgspec.json.schema_components([PoolConfig], ref_template=SCHEMA_REFERENCE)
_CONFIG_FIELDS = _CONFIG_SHAPES["PoolConfig"]["properties"]
_SETTINGS = {name: {"anyOf": [field, {"type": "null"}]} for name, field in _CONFIG_FIELDS.items()}
Settings = Annotated[
    dict[str, object],
    Meta(extra_json_schema={"properties": _SETTINGS, "additionalProperties": False}),
]
"""Some of a pool's settings. They are read by `pool_config`, over others or the defaults."""
PageSize = Annotated[int, Meta(ge=1, le=1000)]
Cursor = Annotated[str, Meta(max_length=200)]


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of a body or a query; others are refused."""


class SpawnRequest(Request, frozen=True, kw_only=True):
    """Ask for an agent. Times are in seconds; `max_idle_time` null: it may be idle for ever.

    `role_type`, `heartbeat_interval`, `max_idle_time` and `expected_seconds` are those of the pool
    where they are left out, and the pool's `labels` are added. In a pool with a placer, agents of a
    higher `priority` get a slot first, and those that are expected to live long are put together.
    """

    project_id: ProjectId
    role_type: RoleName | None = None
    pool_name: PoolName
    heartbeat_interval: Seconds = 30.0
    max_idle_time: Seconds | None = 300.0
    input: dict[str, object] = {}
    labels: Annotated[dict[LabelName, LabelValue], Meta(max_length=LABELS_MAX)] = {}
    pending_timeout: Seconds | None = None
    priority: Annotated[int, Meta(ge=0, le=PRIORITY_MAX)] = 0
    expected_seconds: Seconds | None = None


class TerminateRequest(Request, frozen=True):
    """Ask for an agent's end. Not `graceful`: without waiting for its `stop`."""

    pool_name: PoolName
    agent_id: Identifier
    graceful: bool = True


class PoolRequest(Request, frozen=True):
    """Create a pool. What `config` leaves out is as the service was configured."""

    role_type: RoleName
    pool_name: PoolName
    config: Settings = {}


class PoolPatch(Request, frozen=True):
    """Change some settings of a pool; null restores the service's default."""

    config: Settings


class PauseRequest(Request, frozen=True):
    """Say why a pool's workers are neither to be added nor removed."""

    reason: Annotated[str, Meta(min_length=1, max_length=512)]


class PlanQuery(Request, frozen=True):
    """Whether busy agents may be moved, too."""

    busy: bool = False


class ConsolidateRequest(Request, frozen=True):
    """Why agents are to be moved, and whether busy ones are, too. The body may be left out."""

    may_be_empty: ClassVar[bool] = True
    reason: Annotated[str, Meta(min_length=1, max_length=512)] = "requested"
    busy: bool = False


class AsOfQuery(Request, frozen=True):
    """Now, or as of a point in time."""

    as_of: AsOfParameter | None = None


class ExplainQuery(AsOfQuery, frozen=True):
    """How many of the last events are explained; the first one always is."""

    limit: PageSize = 20


class PoolQuery(AsOfQuery, frozen=True):
    """Which pools."""

    limit: PageSize = 1000
    cursor: Cursor | None = None


class WorkerQuery(PoolQuery, frozen=True):
    """Which workers. `include_ended`: stopped and lost ones too."""

    pool_name: PoolName | None = None
    include_ended: bool = False


class Part(StrEnum):
    """What a list has only if it is asked for."""

    INPUT = "input"


class ProjectQuery(AsOfQuery, frozen=True):
    """Which of a project's agents. `include=input`: with what each was given."""

    status: list[Status] = []
    include: list[Part] = []
    include_ended: bool = False
    limit: PageSize = 100
    cursor: Cursor | None = None


class AgentQuery(ProjectQuery, frozen=True):
    """Which agents. `status` may be repeated; `label` is `name:value`; `text` is a part of the id,
    project, role, labels, reason or last error.

    `include=input`: with what each was given.
    """

    pool_name: PoolName | None = None
    role_type: RoleName | None = None
    project_id: ProjectId | None = None
    process_id: Identifier | None = None
    label: Label | None = None
    text: SearchText | None = None


class OneAgentQuery(Request, frozen=True):
    """With `pool_name` the agent need not be searched for."""

    pool_name: PoolName | None = None


class DeleteAgentQuery(OneAgentQuery, frozen=True):
    """`graceful=false`: without waiting for its `stop`."""

    graceful: bool = True


class DeletePoolQuery(Request, frozen=True):
    """`force`: end the agents that it has."""

    force: bool = False


class ParkedQuery(Request, frozen=True):
    """Which of what is parked."""

    pool_name: PoolName | None = None
    limit: PageSize = 100
    cursor: Annotated[str, Meta(max_length=2000)] | None = None


class RetryRequest(Request, frozen=True):
    """An empty object."""


class RestartRequest(Request, frozen=True):
    """Why an agent is restarted. The body may be left out.

    `discard_state`: what it has saved is deleted, and it starts without.
    """

    may_be_empty: ClassVar[bool] = True
    reason: Annotated[str, Meta(min_length=1, max_length=200)] = "requested"
    discard_state: bool = False


class HealthQuery(Request, frozen=True):
    pool_name: PoolName | None = None
    limit: PageSize = 1000
    cursor: Cursor | None = None


class EventQuery(Request, frozen=True):
    """Which events. `pool`, `agent` and `type` may be repeated. `after`: as `Last-Event-ID`."""

    pool: list[PoolName] = []
    agent: list[Identifier] = []
    type: list[EventType] = []
    after: Annotated[str, Meta(max_length=16_384)] | None = None


class NameKind(StrEnum):
    """What can be looked up by its name."""

    AGENT = "agent"
    WORKER = "worker"
    POOL = "pool"
    PROJECT = "project"
    ROLE = "role"


class LookupQuery(Request, frozen=True):
    """A name, or six or more characters of an id; `kind` may be repeated, all unless given."""

    name: SearchText
    kind: list[NameKind] = []


class NoParameters(Request, frozen=True):
    """No parameters."""
