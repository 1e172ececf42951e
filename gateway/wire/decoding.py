"""Requests read into the Structs that describe them. A refusal names the field that it is about.

A body is bounded in size (aiohttp limits it to `body_max`) and time; what is compressed is refused,
so nothing can expand. Of `Prefer` (RFC 7240) what cannot be read is skipped and what is too long is
shortened, and `Preference-Applied` says what was done.
"""

import asyncio
import json
import re
from ast import literal_eval
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any, Final, TypeVar, get_args

import msgspec
from aiohttp import web
from msgspec import Struct, structs

from eventstore.language.pool_config import LABELS_MAX, PoolConfig, override
from eventstore.names import unknown_name
from gateway.options import Limits
from gateway.wire.idempotency import canonical_form
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import PATTERN_DESCRIPTIONS, SpawnRequest

T = TypeVar("T", bound=Struct)

DEPTH_MAX: Final = 100
"""Levels of an input. Every reader decodes it, and encodes it as part of something larger."""
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_ERROR_MESSAGE: Final = re.compile(
    r"(?P<what>.*?)(?: - at (?:`key` in )?`\$?\.?(?P<path>[^`]*)`)?", re.DOTALL
)
_FIELD_NAME: Final = re.compile(
    r"Object (?:contains unknown|missing required) field `(?P<name>[^`]*)`"
)
_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_PATTERN: Final = re.compile(r"Expected `str` matching regex (?P<pattern>.*)", re.DOTALL)


class Sent(Struct, frozen=True):
    """A body as it was sent, before any defaults: its fields, and the form that is compared."""

    fields: Mapping[str, object]
    canonical: bytes


def require_bounded(request: web.Request, limits: Limits) -> None:
    """Raises `Problem` for a body whose head says that it is compressed, or too large."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        detail = "send the body as it is, without Content-Encoding"
        headers = {"Accept-Encoding": "identity"}
        raise Problem(
            Kind.UNSUPPORTED_MEDIA_TYPE, detail, field="Content-Encoding", headers=headers
        )
    _require_size(request.content_length or 0, limits)


def _require_size(size: int, limits: Limits) -> None:
    if size > limits.body_max:
        detail = f"the body is over {limits.body_max} bytes"
        raise Problem(Kind.BODY_TOO_LARGE, detail, field="body")


async def read_body(request: web.Request, shape: type[T], limits: Limits) -> tuple[T, Sent]:
    """The request's body, and as it was sent. Raises `Problem`."""
    try:
        if request.content.is_eof():  # it came with the head
            content = request.content.read_nowait()
        else:
            async with asyncio.timeout(limits.body_seconds):
                content = await request.read()
    except TimeoutError:
        detail = f"the body did not come within {limits.body_seconds:g} s"
        raise Problem(Kind.BODY_TOO_SLOW, detail, field="body") from None
    except (web.RequestPayloadError, ConnectionError) as error:
        detail = "the body broke off, or is not framed as HTTP says"
        raise Problem(Kind.MALFORMED_HTTP, detail, field="body") from error
    _require_size(len(content), limits)
    content = content or (b"{}" if may_be_empty(shape) else b"")
    return decode_body(content, shape)


def may_be_empty(shape: object) -> bool:
    """Whether a request need not have a body."""
    return bool(getattr(shape, "may_be_empty", False))


def decode_body(content: bytes, shape: type[T]) -> tuple[T, Sent]:
    """JSON as a Struct, and as it was sent. Raises `Problem`."""
    if not content:
        raise Problem(Kind.MALFORMED_JSON, "the body is empty", field="body")
    try:
        decoded = msgspec.json.decode(content, type=shape)
        fields = msgspec.json.decode(content)
        sent = Sent(fields, canonical_form(fields))
        _require_unique_names(content, sent)
    except msgspec.ValidationError as error:
        raise validation_problem(error, shape) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        detail = f"the body cannot be read: {error}"
        raise Problem(Kind.MALFORMED_JSON, detail, field="body") from None

    return decoded, sent


def _require_unique_names(content: bytes, sent: Sent) -> None:
    """Raises `Problem` if an object has a name twice: readers differ in which one counts.

    Such a body has fewer colons once it was read; only escaped ones could replace them.
    """
    if b"\\u" in content or content.count(b":") != sent.canonical.count(b":"):
        json.loads(content, object_pairs_hook=_unique, parse_int=str, parse_float=str)


def _unique(pairs: list[tuple[str, object]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        name = next(name for at, name in enumerate(names) if name in names[:at])
        raise Problem(Kind.INVALID_REQUEST, f"{name[:100]} is given more than once", field=name)


def read_query(request: web.Request, shape: type[T]) -> T:
    """The request's query parameters. Raises `Problem`."""
    repeatable, whole = _forms(shape)
    fields: dict[str, Any] = {}
    for name in request.query:
        values = request.query.getall(name)
        if name in repeatable:
            fields[name] = [part for value in values for part in value.split(",")]
        elif len(values) > 1:
            raise Problem(Kind.INVALID_REQUEST, f"{name} is given more than once", field=name)
        elif name in whole and not values[0].isdecimal():
            detail = f"{name}: Expected a whole number in digits"
            raise Problem(Kind.INVALID_REQUEST, detail, field=name)
        else:
            fields[name] = values[0]
    if "" in fields:
        detail = "a parameter of the query has no name"
        raise Problem(Kind.INVALID_REQUEST, detail, field="query")
    return convert(fields, shape, strict=False)


@cache
def _forms(shape: type[Struct]) -> tuple[frozenset[str], frozenset[str]]:
    """The parameters that may be repeated, and the integers.

    1e3 and 10.0 are no integers, although msgspec reads them so.
    """
    fields = structs.fields(shape)
    repeatable = {one.encode_name for one in fields if one.default_factory is list}
    whole = {one.encode_name for one in fields if int in (one.type, *get_args(one.type))}
    return frozenset(repeatable), frozenset(whole)


def convert(value: object, shape: type[T], *, strict: bool, prefix: str = "") -> T:
    """A value, or fields as a Struct; `prefix` is the name of what they are. Raises `Problem`."""
    try:
        return msgspec.convert(value, shape, strict=strict)
    except msgspec.ValidationError as error:
        raise validation_problem(error, shape, prefix) from None
    except UnicodeEncodeError:
        detail = "this is not UTF-8"
        raise Problem(Kind.INVALID_REQUEST, detail, field=prefix or "query") from None


def validation_problem(error: msgspec.ValidationError, shape: type, prefix: str = "") -> Problem:
    """An error of msgspec as a problem, with the name of the field apart."""
    parsed = _ERROR_MESSAGE.fullmatch(str(error))
    message, path = (parsed["what"], parsed["path"] or "") if parsed else (str(error), "")
    named_field = _FIELD_NAME.match(message)
    names = [prefix, path, named_field["name"] if named_field else ""]
    field = ".".join(name for name in names if name) or "body"
    detail = f"{field}: {_describe(message, shape, path)}"
    return Problem(Kind.INVALID_REQUEST, detail, field=field)


def _describe(message: str, shape: type, path: str) -> str:
    """The message in words: what a pattern expects, or which values there are."""
    if pattern_match := _PATTERN.fullmatch(message):
        pattern = literal_eval(pattern_match["pattern"])
        return f"Expected {PATTERN_DESCRIPTIONS.get(pattern, 'another text')}"
    unknown = _UNKNOWN_FIELD.fullmatch(message)
    if unknown and (inner := _shape_at(shape, path)):
        return unknown_name(
            "field", unknown["name"], [one.encode_name for one in structs.fields(inner)]
        )
    if message.startswith("Invalid enum value ") and (choices := _choices(shape, path)):
        return f"{message}; expected {', '.join(choices)}"
    return message


def _shape_at(shape: type, path: str) -> type | None:
    """The Struct at a path of fields and indexes within another one, if it is one."""
    found: type | None = shape
    for name in re.findall(r"[^.\[\]]+", path):
        if found is None or name == "...":
            return None
        if name.isdecimal():
            continue
        types = [field.type for field in structs.fields(found) if field.encode_name == name]
        found = None
        while types and found is None:
            candidate = types.pop()
            found = candidate if _is_struct(candidate) else None
            types += get_args(candidate)
    return found


def _is_struct(candidate: object) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, Struct)


def _choices(shape: type, path: str) -> Sequence[str]:
    """The values of a field that is an enumeration; else nothing."""
    name = re.split(r"[.\[]", path)[0]
    types = [field.type for field in structs.fields(shape) if field.encode_name == name]
    while types:
        candidate = types.pop()
        if isinstance(candidate, type) and issubclass(candidate, Enum):
            return [str(value.value) for value in candidate]
        types += get_args(candidate)
    return ()


def pool_defaults(spawn: SpawnRequest, sent: Sent, config: PoolConfig) -> dict[str, Any]:
    """What a pool says of what a spawn left out, and the labels of both. Raises `Problem`."""
    labels = {**config.labels, **spawn.labels}
    found: dict[str, Any] = {"labels": labels}
    if "heartbeat_interval" not in sent.fields:
        found["heartbeat_interval"] = config.heartbeat_interval
    if "max_idle_time" not in sent.fields:
        found["max_idle_time"] = config.max_idle_time or None
    if "expected_seconds" not in sent.fields:
        found["expected_seconds"] = config.expected_seconds
    if len(labels) > LABELS_MAX:
        detail = f"labels: {len(labels)} with those of the pool, more than {LABELS_MAX}"
        raise Problem(Kind.INVALID_REQUEST, detail, field="labels")
    return found


def check_intervals(spawn: SpawnRequest | PoolConfig, limits: Limits, prefix: str = "") -> None:
    """The bounds of intervals, which are settings. Raises `Problem`."""
    for name, value, minimum in (
        ("heartbeat_interval", spawn.heartbeat_interval, limits.heartbeat_interval_min),
        ("max_idle_time", spawn.max_idle_time, limits.idle_time_min),
    ):
        if value is None or (value == 0 and isinstance(spawn, PoolConfig)):
            continue  # never
        if value < minimum:
            field = f"{prefix}{name}"
            detail = f"{field}: Expected `float` >= {minimum:g}, got {value:g}"
            raise Problem(Kind.INVALID_REQUEST, detail, field=field)


def check_spawn(spawn: SpawnRequest, limits: Limits) -> None:
    """The bounds that are settings. Raises `Problem`."""
    check_intervals(spawn, limits)
    if not spawn.input:
        return
    if _deeper_than(DEPTH_MAX, spawn.input):
        detail = f"input is nested more than {DEPTH_MAX} levels deep"
        raise Problem(Kind.INVALID_REQUEST, detail, field="input")
    encoded = msgspec.json.encode(spawn.input)
    if len(encoded) > limits.input_max:
        detail = f"input is {len(encoded)} bytes as JSON, more than {limits.input_max}"
        raise Problem(Kind.INVALID_REQUEST, detail, field="input")
    if _NUL.search(encoded):
        raise Problem(Kind.INVALID_REQUEST, "input contains the character U+0000", field="input")


def _deeper_than(depth_max: int, value: object) -> bool:
    level, depth = [value], 0
    while level and depth <= depth_max:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def pool_config(
    fields: Mapping[str, object], defaults: PoolConfig, current: PoolConfig | None = None
) -> PoolConfig:
    """Settings on top of the current ones, or the defaults; null: the default. Raises `Problem`."""
    base, usual = msgspec.to_builtins(current or defaults), msgspec.to_builtins(defaults)
    overrides = {name: usual.get(name) if one is None else one for name, one in fields.items()}
    return convert(override(base, overrides), PoolConfig, strict=True, prefix="config")


class WaitPreference(Struct, frozen=True):
    """Seconds to wait, and what `Preference-Applied` says."""

    seconds: float
    applied: str = ""
    explicit: bool = False
    """The client named the seconds."""


def wait_preference(prefer: Sequence[str], limits: Limits) -> WaitPreference:
    """What the `Prefer` headers of a request say. The first of each preference counts."""
    preferences: dict[str, str] = {}
    for item in ",".join(prefer).split(","):
        name, _, value = item.split(";")[0].partition("=")
        preferences.setdefault(name.strip().lower(), value.strip().strip('"'))
    if "respond-async" in preferences:
        return WaitPreference(0.0, "respond-async")
    wait = preferences.get("wait", "")
    if wait.isascii() and wait.isdigit() and len(wait) < 10:
        seconds = min(float(wait), limits.wait_max)
        return WaitPreference(seconds, f"wait={seconds:g}", explicit=seconds > 0)
    return WaitPreference(limits.wait_default)
