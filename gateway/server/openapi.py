"""`/openapi.json`, made from the Structs that decode the requests and encode the answers.

What the document says of a call is what its handler reads, because it is the same declaration.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from inspect import getdoc, signature
from typing import Any, Final

from aiohttp import web
from msgspec import Struct
from msgspec.json import schema, schema_components

from gateway.access.grants import About, Need
from gateway.server import schemas as schemas_of_values
from gateway.wire.answer import JSON, Answer
from gateway.wire.problems import CONTENT_TYPE
from gateway.wire.problems import Body as ProblemBody
from gateway.wire.requests import SCHEMA_REFERENCE, SETTING_SHAPES
from gateway.wire.session_cookie import NAME

SCHEME: Final = (
    "A token of `muster token new` with the scope that the call names, or `admin`; or that of the"
    " service, MUSTER_API_TOKEN. None where none is configured."
)
SESSION: Final = (
    "In a browser, the same token in a cookie: `POST /session` sets it. It counts in requests of"
    " this origin only, and with `Muster-Request: 1` where the method is none of GET and HEAD."
)
COMMON_STATUSES: Final = (400, 408, 421, 431)
"""What any request may be refused with."""


def _header(name: str, description: str, **pattern: str) -> dict[str, Any]:
    """A header of a request; `pattern` of its value, if it has one."""
    text = {"type": "string", **pattern}
    return {"name": name, "in": "header", "description": description, "schema": text}


PREFER: Final = _header(
    "Prefer", "`wait=N`: wait up to N seconds (60 at most); `respond-async`: do not wait."
)
DURABILITY: Final = _header(
    "Muster-Durability",
    "`accepted`, `fsynced`, `replicated` or `archived`: the level to be reached before the answer.",
)
IDEMPOTENCY_KEY: Final = _header(
    "Idempotency-Key",
    "1 to 255 printable ASCII characters; for a day (a setting) it asks for the same agent.",
    pattern="^[!-~]([ -~]{0,253}[!-~])?$",
)
LAST_EVENT_ID: Final = _header("Last-Event-ID", "Resume after the event with this id.")
MUSTER_REQUEST: Final = _header(
    "Muster-Request",
    "`1`: needed by what changes something in a session; other sites cannot add it.",
)
_LEVEL: Final = "The level that was reached"
_PENDING: Final = "The level that was asked for and not reached, and why"
DURABILITY_HEADERS: Final = {
    "Muster-Durability": {"description": _LEVEL, "schema": {"type": "string"}},
    "Muster-Durability-Pending": {"description": _PENDING, "schema": {"type": "string"}},
}
"""Of the answers to a command."""


class _Needing(Struct, frozen=True, kw_only=True):
    needs: Need
    """Which callers it is for: there is no call that does not say so."""


class Operation(_Needing, frozen=True):
    """One call. Its summary is the first line of its handler's docstring.

    What it reads are the parameters of its handler: `query` and `body` are Structs, all others are
    parts of the path.
    """

    tag: str
    method: str
    path: str
    handler: Callable[..., Awaitable[Answer | web.StreamResponse]]
    shape: Any
    """Of the body of its answers."""
    answers: Mapping[int, str]
    """What each status means."""
    problems: tuple[int, ...] = ()
    """Besides those that come with what it reads."""
    headers: tuple[dict[str, Any], ...] = ()
    content_type: str = JSON
    name: str = ""
    """Its operation id, where it is not the handler's name."""

    @property
    def operation_id(self) -> str:
        """What a client that is generated calls it."""
        return self.name or self.handler.__name__

    @property
    def inputs(self) -> dict[str, Any]:
        """The shapes of what the handler reads, by name."""
        return dict(_inputs(self.handler))


@cache
def _inputs(handler: Callable[..., Awaitable[Any]]) -> dict[str, Any]:
    [_, *inputs] = signature(handler).parameters.values()
    return {parameter.name: parameter.annotation for parameter in inputs}


def describe(operations: Sequence[Operation], version: str, token: bool) -> dict[str, Any]:
    """The complete document."""
    shapes = [ProblemBody, *SETTING_SHAPES]
    for op in operations:
        shapes += [op.shape, *(op.inputs[name] for name in ("query", "body") if name in op.inputs)]
    schemas, components = schema_components(
        shapes, ref_template=SCHEMA_REFERENCE, schema_hook=_any_schema
    )
    schemas_of_values.add_values(components)
    by_shape = dict(zip(map(repr, shapes), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for op in operations:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(
            op, by_shape, components, token
        )
    result: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Muster",
            "version": version,
            "description": "An auto-scaling pool of long-lived agents.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    scheme = {"type": "http", "scheme": "bearer", "description": SCHEME}
    session = {"type": "apiKey", "in": "cookie", "name": NAME, "description": SESSION}
    result["components"]["securitySchemes"] = {"token": scheme, "session": session}
    return result


def _any_schema(type_: type) -> dict[str, Any]:
    """A value that may be anything; to msgspec an empty schema means that there is none."""
    if type_ is object:
        return {"description": "Any JSON value"}
    raise NotImplementedError(type_)


def _operation(
    op: Operation, schemas: dict[str, Any], components: dict[str, Any], token: bool
) -> dict[str, Any]:
    parts = op.inputs
    query, body = parts.pop("query", None), parts.pop("body", None)
    fields = components[query.__name__]["properties"] if query else {}
    required = components[query.__name__].get("required", ()) if query else ()
    command = DURABILITY in op.headers
    summary, _, _ = str(getdoc(op.handler)).partition("\n")
    result: dict[str, Any] = {
        "summary": summary.rstrip("."),
        "tags": [op.tag],
        "operationId": op.operation_id,
        "parameters": [
            *(_parameter(name, "path", True, schema(shape)) for name, shape in parts.items()),
            *(_parameter(n, "query", n in required, field) for n, field in fields.items()),
            *op.headers,
        ],
        "responses": {
            str(status): {
                "description": meaning,
                "content": {op.content_type: _content(schemas[repr(op.shape)], components)},
                **({"headers": DURABILITY_HEADERS} if command else {}),
            }
            for status, meaning in op.answers.items()
        },
    }
    if body:
        content = {JSON: _content(schemas[repr(body)], components)}
        required = not getattr(body, "may_be_empty", False)
        result["requestBody"] = {"required": required, "content": content}
    as_of = query and "as_of" in query.__struct_fields__
    problems = {*COMMON_STATUSES, *op.problems}
    problems |= {413, 415} if body else set()
    problems |= {422} if command else set()
    problems |= {410, 422} if as_of else set()
    if (scope := op.needs.scope) is not None:
        problems |= {503, *((401, 403) if token else ())}
        foreign = token and op.needs.about not in (About.ANY, About.SERVICE)
        problems |= {404} if foreign else set()
        needed = {"token": [scope.value]}
        result["security"] = [needed] if token else [{}, needed]
    problem = {CONTENT_TYPE: {"schema": schemas[repr(ProblemBody)]}}
    for status in sorted(problems - op.answers.keys()):
        result["responses"][str(status)] = {"description": "A problem", "content": problem}
    return result


def _content(schema: dict[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema": schema, "example": schemas_of_values.example(schema, components)}


def _parameter(name: str, place: str, required: bool, shape: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": shape}
