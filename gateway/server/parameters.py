"""The parameters of calls in `/openapi.json`: parts of the path, of the query, and headers."""

from typing import Any, Final, NamedTuple

import msgspec

from gateway.wire import requests


class Header(NamedTuple):
    """`pattern` of its value, if it has one."""

    name: str
    description: str
    pattern: str = ""


PREFER: Final = Header(
    "Prefer", "`wait=N`: wait up to N seconds (60 at most); `respond-async`: do not wait."
)
DURABILITY: Final = Header(
    "Muster-Durability",
    "`accepted`, `fsynced`, `replicated` or `archived`: the level to be reached before the answer.",
)
IDEMPOTENCY_KEY: Final = Header(
    "Idempotency-Key",
    "1 to 255 printable ASCII characters; for a day (a setting) it asks for the same agent.",
    "^[!-~]([ -~]{0,253}[!-~])?$",
)
LAST_EVENT_ID: Final = Header("Last-Event-ID", "Resume after the event with this id.")
PATH_PARAMETERS: Final = {
    "pool_name": requests.PoolName,
    "agent_id": requests.Identifier,
    "project_id": requests.ProjectId,
    "parked_id": requests.ParkedId,
    "name": str,
}
DURABILITY_HEADERS: Final = {
    "Muster-Durability": "The level that was reached",
    "Muster-Durability-Pending": "The level that was asked for and not reached, and why",
}


def path_parameters(path: str) -> list[dict[str, Any]]:
    """Those that the path names."""
    return [
        {"name": name, "in": "path", "required": True, "schema": msgspec.json.schema(shape)}
        for name, shape in PATH_PARAMETERS.items()
        if f"{{{name}}}" in path
    ]


def query_parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The fields of a query's schema."""
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema["properties"].items()
    ]


def header_parameter(header: Header) -> dict[str, Any]:
    pattern = {"pattern": header.pattern} if header.pattern else {}
    return {
        "name": header.name,
        "in": "header",
        "description": header.description,
        "schema": {"type": "string", **pattern},
    }


def durability_headers() -> dict[str, Any]:
    """The headers of a command's answer."""
    return {
        name: {"description": about, "schema": {"type": "string"}}
        for name, about in DURABILITY_HEADERS.items()
    }
