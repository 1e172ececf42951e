"""`/openapi.json`, as a client that is generated from it needs it."""

import re
from typing import Any

import msgspec
import pytest

from gateway.server.routes import OPERATIONS, build_document
from gateway.server.schemas import VALUES
from gateway.wire.answer import JSON

DOCUMENT: dict[str, Any] = msgspec.to_builtins(build_document("0", token=False))
CALLS = {
    operation["operationId"]: operation
    for path in DOCUMENT["paths"].values()
    for operation in path.values()
}
SHAPES = {operation.operation_id: operation for operation in OPERATIONS}


def test_every_call_has_a_name_that_is_one_of_a_function() -> None:
    assert len(CALLS) == len(OPERATIONS)
    assert [name for name in CALLS if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)] == []


@pytest.mark.parametrize(("shape", "field"), VALUES)
def test_a_field_with_few_values_names_them(shape: str, field: str) -> None:
    described = DOCUMENT["components"]["schemas"][shape]["properties"][field]
    assert described["enum"] == list(VALUES[shape, field])
    assert len(set(described["enum"])) == len(described["enum"])


def test_a_token_is_declared_whether_it_is_needed_or_not() -> None:
    needed = {"token": ["read"]}
    for token, security in ((True, [needed]), (False, [{}, needed])):
        document = build_document("0", token=token)
        assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
        paths = document["paths"]
        assert paths["/api/v1/agents"]["get"]["security"] == security
        assert "security" not in paths["/healthz"]["get"]


def test_what_ends_an_agent_may_be_refused_for_its_damaged_state() -> None:
    for name in ("terminate_agent", "delete_agent"):
        assert "409" in CALLS[name]["responses"]


def test_a_list_of_one_pool_may_be_refused() -> None:
    for name, call in CALLS.items():
        if any(parameter["name"] == "pool_name" for parameter in call["parameters"]):
            assert "404" in call["responses"], name


@pytest.mark.parametrize("name", CALLS)
def test_the_examples_of_a_call_are_of_its_shapes(name: str) -> None:
    operation = SHAPES[name]
    answers = [CALLS[name]["responses"][str(status)] for status in operation.answers]
    for answer in answers:
        [(content_type, content)] = answer["content"].items()
        if content_type == JSON:
            msgspec.convert(content["example"], operation.shape)
    if body := CALLS[name].get("requestBody"):
        msgspec.convert(body["content"][JSON]["example"], operation.inputs["body"])
