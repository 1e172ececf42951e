"""The page of events says what the code writes: events, log names, metrics, problems."""

import ast
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec
import pytest

from eventstore.language.alerts import AlertBody, Case
from eventstore.language.events import (
    ENTRY_FIELDS,
    EVENT_TYPES,
    AgentBody,
    Error,
    HostBody,
    Number,
    PoolBody,
    WorkerBody,
)
from eventstore.language.scaling_state import Memory, Observation
from eventstore.metrics.families import FAMILIES
from gateway.wire import problems
from tests.unit.source.pages import EVENTS, PACKAGES, ROOT, first_names, section, table

BODIES = [
    body for u in (AgentBody, WorkerBody, PoolBody, HostBody, AlertBody) for body in get_args(u)
]
ALERTS = [body.type for body in get_args(AlertBody)]
TYPE_NAMES: dict[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "boolean",
    msgspec.Raw: "object",
    dict[str, str]: "object",
    dict[str, Number]: "object",
    Observation: "object",
    Memory: "object",
    Error: "error",
    tuple[Case, ...]: "array",
}


def described(field: msgspec.structs.FieldInfo) -> list[str]:
    """A field's name, type and default, as they are in its row."""
    bounded = get_origin(field.type) is Annotated
    kind = field.type.__origin__ if bounded else field.type
    optional = isinstance(kind, types.UnionType) or type(None) in get_args(kind)
    name = TYPE_NAMES[get_args(kind)[0]] + " or null" if optional else TYPE_NAMES[kind]
    return [f"`{field.name}`", name, _default(field)]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return "`{}`"
    if field.default is msgspec.NODEFAULT:
        return ""
    value = field.default
    shown = bytes(value) if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
    return f"`{shown.decode()}`"


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.type)
def test_an_event_is_described_field_by_field(body: Any) -> None:
    """Name, version, and each field's type and default; no field that is not there any more."""
    text = section(EVENTS, f"### `{body.type}`")
    assert text.strip().startswith(f"Version {body.version}. Subject: ")
    rows = [row[:3] for row in table(text)]
    assert rows == [described(field) for field in msgspec.structs.fields(body)]


def test_no_event_is_described_that_is_not_written() -> None:
    headings = re.findall(r"^### `([a-z_.]+)`$", EVENTS, re.MULTILINE)
    assert sorted(headings) == sorted([*EVENT_TYPES, "worker.heartbeat", *ALERTS])


def test_the_fields_of_an_entry_are_listed_in_their_order() -> None:
    names = first_names(section(EVENTS, "## An entry"))
    assert names == list(ENTRY_FIELDS)


# ---- log names and metrics -------------------------------------------------------------------

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
RECEIVERS = {"log", "_log", "logger", "_logger"}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def log_names() -> set[str]:
    """The first argument of every call of a logger, followed into a constant of the module."""
    found: set[str] = set()
    for path, tree in sources():
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _logs(node.func):
                found |= set(_texts(node.args[0], constants, path))
    return found


def _logs(function: ast.expr) -> bool:
    if not isinstance(function, ast.Attribute) or function.attr not in LEVELS:
        return False
    on = function.value
    name = on.attr if isinstance(on, ast.Attribute) else on.id if isinstance(on, ast.Name) else ""
    return name in RECEIVERS


def _texts(argument: ast.expr, constants: dict[str, ast.expr], path: Path) -> Iterator[str]:
    if isinstance(argument, ast.Constant):
        yield str(argument.value)
        return
    table = argument.value if isinstance(argument, ast.Subscript) else argument
    assert isinstance(table, ast.Name), f"{path}:{argument.lineno}: a log name must be a constant"
    mapping = constants[table.id]
    assert isinstance(mapping, ast.Dict), f"{path}:{argument.lineno}: a log name must be a constant"
    for value in mapping.values:
        assert isinstance(value, ast.Constant)
        yield str(value.value)


def test_every_log_name_is_listed_and_no_other() -> None:
    found = log_names()
    assert "agent.started" in found, "names in a table of the code are followed"
    assert sorted(first_names(section(EVENTS, "## Log names"))) == sorted(found)


def test_every_metric_is_listed_with_its_kind_and_labels() -> None:
    text = section(EVENTS, "## Metrics")
    rows = {row[0].strip("`"): [row[1], row[2], _labels(row[3])] for row in table(text)}
    assert rows == {name: [f.kind, f.of, list(f.labels)] for name, f in FAMILIES.items()}


def _labels(cell: str) -> list[str]:
    """The names in a cell, without their values, which are in brackets."""
    return re.findall(r"`(\w+)`", re.sub(r"\(.*?\)(?=,|$)", "", cell))


def test_every_problem_is_listed_with_its_status() -> None:
    rows = {row[0].strip("`"): row[1:3] for row in table(section(EVENTS, "## Problems"))}
    statuses = {kind.value: kind.status for kind in problems.Kind if kind.status}
    after = {kind.value: f"{kind.retry_after} s" for kind in problems.Kind if kind.retry_after}
    assert rows == {name: [str(statuses[name]), after.get(name, "")] for name in statuses}
