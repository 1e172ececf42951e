"""What requests may say: Structs that decode them once, at the edge, and describe them.

`/openapi.json` is made from these same Structs. A refusal names the field that it is about.
"""

import re
from ast import literal_eval
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Annotated, Any, Final, TypeVar, cast, get_args

import msgspec
from aiohttp import web
from msgspec import Meta, Struct, structs
from multidict import MultiMapping

from eventstore.language.agents import Status
from eventstore.language.pool_config import PoolConfig
from gateway.options import Limits
from gateway.wire.bodies import read_content
from gateway.wire.problems import Kind, Problem

T = TypeVar("T")

_PATTERN_DESCRIPTIONS: Final[dict[str, str]] = {}
"""What each pattern expects."""


def _pattern_meta(pattern: str, description: str) -> Meta:
    """A pattern, and what it expects in words, for the document and for who is refused."""
    _PATTERN_DESCRIPTIONS[pattern] = description
    return Meta(pattern=pattern, description=description[0].upper() + description[1:])


# A pattern's `$` also stands before a last line break; `(?!\n)` shuts that door.
PoolName = Annotated[
    str, _pattern_meta(r"^[a-z0-9_-]{1,63}$(?!\n)", "1 to 63 lower-case letters, digits, _ or -")
]
RoleName = Annotated[
    str, _pattern_meta(r"^[A-Za-z0-9._-]{1,63}$(?!\n)", "1 to 63 letters, digits, dots, _ or -")
]
ProjectId = Annotated[
    str,
    _pattern_meta(
        r"^[A-Za-z0-9._:-]{1,128}$(?!\n)", "1 to 128 letters, digits, dots, colons, _ or -"
    ),
]
ParkedId = Annotated[
    str,
    _pattern_meta(
        r"^[a-z0-9_-]{1,63}:(agent|worker|command|heartbeat):[\s\S]{0,1024}$(?!\n)",
        "an id as the list of what is parked gives it: the pool, then agent, worker, command or"
        " heartbeat, then the name of what stands there, with colons between",
    ),
]
Identifier = Annotated[
    str,
    _pattern_meta(
        r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)",
        "a UUID in lower case",
    ),
]
LabelName = Annotated[
    str,
    _pattern_meta(
        r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$(?!\n)",
        "1 to 63 letters, digits, dots, slashes, _ or -, the first a letter or digit",
    ),
]
LabelValue = Annotated[
    str,
    _pattern_meta(
        r"^[^\x00-\x1f\x7f]{0,256}$(?!\n)",
        "at most 256 characters, none of them a control character",
    ),
]
Label = Annotated[
    str,
    _pattern_meta(
        r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}:[^\x00-\x1f\x7f]{0,256}$(?!\n)",
        "a label's name and value with a colon between",
    ),
]
WorkerId = Annotated[
    str,
    _pattern_meta(
        r"^[A-Za-z0-9._:-]{1,128}$(?!\n)", "1 to 128 letters, digits, dots, colons, _ or -"
    ),
]
EventType = Annotated[
    str, _pattern_meta(r"^[a-z_.]{1,64}$(?!\n)", "the type of an event, such as agent.started")
]
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
Settings = Annotated[
    dict[str, object],
    Meta(
        extra_json_schema={
            "properties": {
                name: {"anyOf": [schema, {"type": "null"}]}
                for name, schema in msgspec.json.schema(PoolConfig)["$defs"]["PoolConfig"][
                    "properties"
                ].items()
            },
            "additionalProperties": False,
        }
    ),
]
"""Some of a pool's settings. They are read by `pool_config`, over others or the defaults."""
PageSize = Annotated[int, Meta(ge=1, le=1000)]


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a body or a query may say, and nothing else."""


class SpawnRequest(Request, frozen=True):
    """Ask for an agent. Times are in seconds; `max_idle_time` null: never given back."""

    project_id: ProjectId
    role_type: RoleName
    pool_name: PoolName
    heartbeat_interval: Seconds = 30.0
    max_idle_time: Seconds | None = 300.0
    input: dict[str, object] = {}
    labels: Annotated[dict[LabelName, LabelValue], Meta(max_length=16)] = {}
    pending_timeout: Seconds | None = None


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
    """Change some settings of a pool; null puts one back to the service's default."""

    config: Settings


class AgentQuery(Request, frozen=True):
    """Which agents. `status` may be repeated; `label` is `name:value`."""

    pool_name: PoolName | None = None
    role_type: RoleName | None = None
    project_id: ProjectId | None = None
    status: list[Status] = []
    process_id: Identifier | None = None
    label: Label | None = None
    include_ended: bool = False
    limit: PageSize = 100
    cursor: Annotated[str, Meta(max_length=200)] | None = None
    as_of: AsOfParameter | None = None


class ProjectQuery(Request, frozen=True):
    """Which of a project's agents."""

    status: list[Status] = []
    include_ended: bool = False
    limit: PageSize = 100
    cursor: Annotated[str, Meta(max_length=200)] | None = None
    as_of: AsOfParameter | None = None


class AsOfQuery(Request, frozen=True):
    """Now, or as of a moment of the past."""

    as_of: AsOfParameter | None = None


class WorkerQuery(Request, frozen=True):
    """Which workers. `include_ended`: stopped and lost ones too."""

    pool_name: PoolName | None = None
    include_ended: bool = False
    limit: PageSize = 1000
    cursor: Annotated[str, Meta(max_length=200)] | None = None
    as_of: AsOfParameter | None = None


class DeleteAgentQuery(Request, frozen=True):
    """`pool_name` saves looking for the agent."""

    pool_name: PoolName | None = None
    graceful: bool = True


class DeletePoolQuery(Request, frozen=True):
    """`force`: end the agents that it has."""

    force: bool = False


class ParkedQuery(Request, frozen=True):
    pool_name: PoolName | None = None


class RetryRequest(Request, frozen=True):
    """An empty object: nothing is to be said."""


class HealthQuery(Request, frozen=True):
    pool_name: PoolName | None = None
    limit: PageSize = 1000
    cursor: Annotated[str, Meta(max_length=200)] | None = None


class EventQuery(Request, frozen=True):
    """Which events. `pool`, `agent` and `type` may be repeated. `after`: as `Last-Event-ID`."""

    pool: list[PoolName] = []
    agent: list[Identifier] = []
    type: list[EventType] = []
    after: Annotated[str, Meta(max_length=16_384)] | None = None


class NoParameters(Request, frozen=True):
    """No parameters."""


async def read_body(request: web.Request, shape: type[T]) -> T:
    """The request's body. Raises `Problem`."""
    return decode_body(await read_content(request), shape)


def decode_body(content: bytes, shape: type[T]) -> T:
    """JSON as a Struct. Raises `Problem`."""
    if not content:
        raise Problem(Kind.MALFORMED_JSON, "the body is empty", field="body")
    try:
        value: T = _decoder(cast("Any", shape)).decode(content)
    except msgspec.ValidationError as error:
        raise validation_problem(error, shape) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        detail = f"the body cannot be read: {error}"
        raise Problem(Kind.MALFORMED_JSON, detail, field="body") from None
    return value


def read_query(request: web.Request, shape: type[T]) -> T:
    """The request's query parameters. Raises `Problem`."""
    return decode_query(request.query, shape)


def decode_query(raw: MultiMapping[str], shape: type[T]) -> T:
    """Query parameters as a Struct. Raises `Problem`."""
    repeatable = _repeatable(cast("Any", shape))
    fields: dict[str, Any] = {}
    for name in raw:
        values = raw.getall(name)
        if name in repeatable:
            fields[name] = [part for value in values for part in value.split(",")]
        elif len(values) > 1:
            raise Problem(Kind.INVALID_REQUEST, f"{name} is given more than once", field=name)
        else:
            fields[name] = values[0]
    return convert(fields, shape, strict=False)


def convert(fields: Mapping[str, object], shape: type[T], *, strict: bool, prefix: str = "") -> T:
    """Fields as a Struct; `at` is where they stand. Raises `Problem`."""
    try:
        return msgspec.convert(fields, shape, strict=strict)
    except msgspec.ValidationError as error:
        raise validation_problem(error, shape, prefix) from None
    except UnicodeEncodeError:
        detail = "this is not UTF-8"
        raise Problem(Kind.INVALID_REQUEST, detail, field=prefix or "query") from None


def path_parameter(request: web.Request, name: str, shape: Any) -> str:
    """A part of the path. Raises `Problem`."""
    try:
        return str(msgspec.convert(request.match_info[name], shape))
    except msgspec.ValidationError as error:
        detail = f"{name}: {_describe(str(error))}"
        raise Problem(Kind.INVALID_REQUEST, detail, field=name) from None


@cache
def _decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(shape)


@cache
def _repeatable(shape: Any) -> frozenset[str]:
    """The parameters that may come more than once."""
    fields = msgspec.structs.fields(shape)
    return frozenset(field.encode_name for field in fields if field.default_factory is list)


_ERROR_MESSAGE: Final = re.compile(
    r"(?P<what>.*?)(?: - at (?:`key` in )?`\$?\.?(?P<path>[^`]*)`)?", re.DOTALL
)
_FIELD_NAME: Final = re.compile(
    r"Object (?:contains unknown|missing required) field `(?P<name>[^`]*)`"
)


_PATTERN: Final = re.compile(r"Expected `str` matching regex (?P<pattern>.*)", re.DOTALL)
_ENUM: Final = re.compile(r"Invalid enum value .*", re.DOTALL)


def validation_problem(error: msgspec.ValidationError, shape: type, prefix: str = "") -> Problem:
    """What msgspec says of one who should be a `shape`, with the field as a name of its own."""
    parsed = _ERROR_MESSAGE.fullmatch(str(error))
    message, path = (parsed["what"], parsed["path"] or "") if parsed else (str(error), "")
    named_field = _FIELD_NAME.match(message)
    names = [prefix, path, named_field["name"] if named_field else ""]
    field = ".".join(name for name in names if name) or "body"
    detail = f"{field}: {_describe(message, _choices(shape, path))}"
    return Problem(Kind.INVALID_REQUEST, detail, field=field)


def _describe(message: str, choices: Sequence[str] = ()) -> str:
    """What was expected, where msgspec shows a pattern for it, or that it was another."""
    if pattern_match := _PATTERN.fullmatch(message):
        pattern = literal_eval(pattern_match["pattern"])
        return f"Expected {_PATTERN_DESCRIPTIONS.get(pattern, 'another text')}"
    return (
        f"{message}; expected {', '.join(choices)}" if choices and _ENUM.match(message) else message
    )


def _choices(shape: type, path: str) -> Sequence[str]:
    """The values that a field may have, if they are named."""
    name = re.split(r"[.\[]", path)[0]
    types = [field.type for field in structs.fields(shape) if field.encode_name == name]
    while types:
        candidate = types.pop()
        if isinstance(candidate, type) and issubclass(candidate, Enum):
            return [str(value.value) for value in candidate]
        types += get_args(candidate)
    return ()


DEPTH_MAX: Final = 100
"""Levels of an input. Every reader decodes it, and encodes it within something larger."""
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def check_spawn(spawn: SpawnRequest, limits: Limits) -> None:
    """The bounds that are settings. Raises `Problem`."""
    _require_at_least("heartbeat_interval", spawn.heartbeat_interval, limits.heartbeat_interval_min)
    if spawn.max_idle_time is not None:
        _require_at_least("max_idle_time", spawn.max_idle_time, limits.idle_time_min)
    if _deeper_than(DEPTH_MAX, spawn.input):
        detail = f"input is nested more than {DEPTH_MAX} levels deep"
        raise Problem(Kind.INVALID_REQUEST, detail, field="input")
    encoded = msgspec.json.encode(spawn.input)
    if len(encoded) > limits.input_max:
        detail = f"input is {len(encoded)} bytes as JSON, more than {limits.input_max}"
        raise Problem(Kind.INVALID_REQUEST, detail, field="input")
    if _NUL.search(encoded):
        raise Problem(Kind.INVALID_REQUEST, "input holds the character U+0000", field="input")


def _deeper_than(depth_max: int, value: object) -> bool:
    """Whether lists and objects stand within one another so often."""
    level = [value]
    for _ in range(depth_max + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _require_at_least(field: str, value: float, minimum: float) -> None:
    if value < minimum:
        detail = f"{field}: Expected `float` >= {minimum:g}, got {value:g}"
        raise Problem(Kind.INVALID_REQUEST, detail, field=field)


def pool_config(fields: Mapping[str, object], defaults: PoolConfig) -> PoolConfig:
    """Settings over the service's defaults; null means the default. Raises `Problem`."""
    base = msgspec.to_builtins(defaults)
    overrides = {name: base.get(name) if value is None else value for name, value in fields.items()}
    return convert({**base, **overrides}, PoolConfig, strict=True, prefix="config")


def patch_pool_config(
    config: PoolConfig, fields: Mapping[str, object], defaults: PoolConfig
) -> PoolConfig:
    """Settings changed as a merge patch says; null puts one back. Raises `Problem`."""
    base = msgspec.to_builtins(defaults)
    overrides = {name: base.get(name) if value is None else value for name, value in fields.items()}
    return pool_config(overrides, config)
