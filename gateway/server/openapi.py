"""`/openapi.json`, made from the Structs that decode the requests and encode the answers.

What the document says of a body is what the decoder accepts, because it is the same type.
"""

from functools import cache
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.backend.app_keys import BACKEND
from gateway.server import parameters
from gateway.server.operations import JSON, OPERATIONS, Operation
from gateway.wire.problems import CONTENT_TYPE
from gateway.wire.problems import Body as ProblemBody
from gateway.wire.responses import json_response

REFERENCE: Final = "#/components/schemas/{name}"
COMMON_STATUSES: Final = (400, 408, 421, 431)
"""What any request may be refused with."""


async def document(request: web.Request) -> web.Response:
    """`GET /openapi.json`."""
    options = request.app[BACKEND].options
    return json_response(build_document(options.version, bool(options.api_token)))


@cache
def build_document(version: str, token: bool) -> dict[str, Any]:
    """The complete document."""
    shapes = [shape for op in OPERATIONS for shape in _shapes(op)]
    schemas, components = msgspec.json.schema_components(
        [*shapes, ProblemBody], ref_template=REFERENCE, schema_hook=_any_schema
    )
    by_shape = dict(zip([*map(repr, shapes), repr(ProblemBody)], schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for op in OPERATIONS:
        paths.setdefault(op.path, {})[op.method] = _operation(op, by_shape, components, token)
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
    if token:
        scheme = {"type": "http", "scheme": "bearer"}
        result["components"]["securitySchemes"] = {"token": scheme}
    return result


def _any_schema(type_: type) -> dict[str, Any]:
    """A value that may be anything; to msgspec an empty schema means that there is none."""
    if type_ is object:
        return {"description": "Any JSON value"}
    raise NotImplementedError(type_)


def _shapes(op: Operation) -> list[Any]:
    inputs = [shape for shape in (op.body, op.query) if shape is not None]
    return [*inputs, *(shape for _, _, shape in op.responses)]


def _operation(
    op: Operation, schemas: dict[str, Any], components: dict[str, Any], token: bool
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "summary": op.summary,
        "tags": [op.tag],
        "operationId": f"{op.method}{op.path}".replace("/", "_").translate(
            str.maketrans("", "", "{}")
        ),
        "parameters": [
            *parameters.path_parameters(op.path),
            *(
                parameters.query_parameters(components[op.query.__name__])
                if op.query is not None
                else ()
            ),
            *map(parameters.header_parameter, op.headers),
        ],
        "responses": {
            str(status): {
                "description": meaning,
                "content": {op.content_type: {"schema": schemas[repr(shape)]}},
                **({"headers": parameters.durability_headers()} if op.is_command else {}),
            }
            for status, meaning, shape in op.responses
        },
    }
    if op.body is not None:
        content = {JSON: {"schema": schemas[repr(op.body)]}}
        result["requestBody"] = {"required": True, "content": content}
    problem = {CONTENT_TYPE: {"schema": schemas[repr(ProblemBody)]}}
    problem_statuses = {*op.problems, *COMMON_STATUSES}
    if not op.public:
        problem_statuses |= {503, *((401,) if token else ())}
        if token:
            result["security"] = [{"token": []}]
    for status in sorted(problem_statuses - {int(s) for s in result["responses"]}):
        result["responses"][str(status)] = {"description": "A problem", "content": problem}
    return result
