"""What `/openapi.json` says of values beyond their types: which there are, and an example of each.

The Structs have plain text where a later version may know more values: a client of this version
reads them all the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from eventstore.language.agents import Status, Stop
from eventstore.language.events import EVENT_TYPES
from eventstore.language.workers import WorkerStatus
from gateway.wire.problems import Kind

_STATUSES: Final = [status.value for status in Status]
_STOPS: Final = ["", *(stop.value for stop in Stop if stop.value)]
_ACTIVITIES: Final = ["", "idle", "busy"]
VALUES: Final[Mapping[tuple[str, str], Sequence[str]]] = {
    ("AgentRow", "status"): _STATUSES,
    ("AgentRow", "stop"): _STOPS,
    ("AgentRow", "activity"): _ACTIVITIES,
    ("AgentHealth", "status"): _STATUSES,
    ("AgentHealth", "activity"): _ACTIVITIES,
    ("AgentHealth", "health"): [
        "healthy", "starting", "stopping", "waiting", "unhealthy", "unknown",
    ],
    ("WorkerRow", "status"): [status.value for status in WorkerStatus],
    ("PoolRow", "status"): ["active"],
    ("PlannedWorker", "action"): ["keep", "empty", "uncordon"],
    ("PoolHistory", "step"): ["minute", "hour", "day"],
    ("PoolDeletion", "status"): ["deleted", "deleting"],
    ("HostRow", "status"): ["joined", "cordoned", "left"],
    ("FlatEvent", "type"): list(EVENT_TYPES),
    ("EventRow", "type"): list(EVENT_TYPES),
    ("Alert", "severity"): ["warning", "critical"],
    ("WebhookRow", "source"): ["file", "api"],
    ("NewWebhook", "source"): ["file", "api"],
    ("Alive", "status"): ["alive"],
    ("Readiness", "status"): ["ready", "not ready"],
    ("Body", "type"): [kind.value for kind in Kind],
}  # fmt: skip
"""The values of a Struct's field, by its name."""
AGENT_ID: Final = "019abe10-5d4e-7c3a-8b1f-0123456789ab"
WORKER_ID: Final = "019abe10-4c3d-7b2a-9a0e-ba9876543210"
_AT: Final = 1_795_529_010_001
EXAMPLES: Final[Mapping[str, object]] = {
    "agent_id": AGENT_ID,
    "worker_id": WORKER_ID,
    "process_id": WORKER_ID,
    "pool": "developer_pool",
    "pool_name": "developer_pool",
    "project_id": "demo",
    "role_type": "developer",
    "labels": {"team": "core"},
    "input": {"task": "write the tests"},
    "config": {"max_workers": 4},
    "reason": "requested",
    "as_of": "2026-11-24T14:03:00Z",
    "name": "developer_pool",
    "token": "muster_…",
    "type": "agent.started",
    "id": f"developer_pool:agent:{AGENT_ID}",
    "parked_id": f"developer_pool:agent:{AGENT_ID}",
    "url": "https://example.com/alerts",
    "secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "status": "running",
    "activity": "busy",
    "heartbeat_interval": 30.0,
    **dict.fromkeys(("created_at", "started_at", "changed_at", "last_heartbeat", "ts"), _AT),
    **dict.fromkeys(
        ("created_time", "started_time", "changed_time", "last_heartbeat_time"),
        "2026-11-24T14:03:30.001Z",
    ),
}
"""An example of a field, by its name."""


def add_values(components: dict[str, Any]) -> None:
    """Name the values of the fields that have few."""
    for (shape, field), values in VALUES.items():
        if shape in components:
            components[shape]["properties"][field]["enum"] = list(values)


def example(schema: Mapping[str, Any], components: Mapping[str, Any], name: str = "") -> Any:
    """A value of a schema, of a field with that name."""
    if reference := schema.get("$ref"):
        return example(components[reference.rpartition("/")[2]], components, name)
    if name in EXAMPLES and EXAMPLES[name] in schema.get("enum", [EXAMPLES[name]]):
        return EXAMPLES[name]
    if "default" in schema:
        return schema["default"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        nullable = {"type": "null"} in schema["anyOf"]
        return None if nullable else example(schema["anyOf"][0], components, name)
    if schema.get("type") == "array":
        return [example(schema["items"], components, name)] if schema.get("items") else []
    if schema.get("type") == "object":
        fields = schema.get("properties", {})
        return {field: example(one, components, field) for field, one in fields.items()}
    return {"string": "", "integer": 1, "number": 1.0, "boolean": False}.get(schema.get("type", ""))
