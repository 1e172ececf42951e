"""The clauses that Python sends are those that the script knows, argument by argument."""

import re
from typing import Any

import msgspec
import pytest

from eventstore.language.agents import Status
from eventstore.log.script_runner import script
from eventstore.steps import clauses
from eventstore.steps.clauses import Check, Enters, Leaves, PutAgent, Write
from eventstore.steps.step import LISTED

SCRIPT = script("commit").text
STRUCTS: dict[str, Any] = {
    f"{kind}.{struct.__name__}": struct
    for kind, base in (("checks", Check), ("writes", Write))
    for struct in base.__subclasses__()
}
FUNCTIONS = dict(re.findall(r"^function ((?:checks|writes)\.\w+)\((.*?)\)", SCRIPT, re.MULTILINE))


def test_the_script_has_a_function_for_every_clause_and_no_other():
    assert sorted(FUNCTIONS) == sorted(STRUCTS)


@pytest.mark.parametrize("name", STRUCTS)
def test_a_function_takes_the_fields_of_its_clause(name: str):
    """One that is added, or moved, is added or moved on both sides."""
    arguments = FUNCTIONS[name].split(", ") if FUNCTIONS[name] else []
    assert len(arguments) == len(msgspec.structs.fields(STRUCTS[name]))


@pytest.mark.parametrize(("part", "struct"), [("leaves", Leaves), ("enters", Enters)])
def test_what_an_agent_leaves_and_enters_is_read_completely(part: str, struct: Any):
    read = {int(index) for index in re.findall(rf"{part}\[(\d+)\]", SCRIPT)}
    assert read == set(range(1, len(msgspec.structs.fields(struct)) + 1))


def test_a_clause_travels_as_an_array_that_begins_with_its_name():
    sent = msgspec.msgpack.decode(clauses.encode([], [PutAgent("a", ended_ms=5)]))
    assert sent == [[], [["PutAgent", "a", [], False, False, False, 5, False]]]


def test_every_status_says_where_an_agent_is_listed():
    assert set(LISTED) == set(Status)
