"""Bad input: each a 4xx that names the field, and nothing is written.

Since nothing is written, the cases of a test share one gateway, each as a subtest.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventstore.ids import new_id
from tests.integration.gateway.raw_connections import POST, connection
from tests.integration.gateway.stage import AGENTS, asked
from tests.integration.projector.stage import POOL

JSON = {"Content-Type": "application/json"}
SPAWN, TERMINATE, POOLS = f"{AGENTS}/spawn", f"{AGENTS}/terminate", f"{AGENTS}/pools"
DEEP = b'{"input":' * 5_000


@asynccontextmanager
async def refused(stage, subtests: pytest.Subtests, case: str) -> AsyncIterator[None]:
    """A case that must write no event to any log."""
    with subtests.test(case):
        before = await stage.heads()
        yield
        assert await stage.heads() == before


def nested(levels: int) -> dict[str, Any]:
    """An input of so many levels."""
    inner: Any = 1
    for _ in range(levels - 1):
        inner = [inner]
    return {"x": inner}


BODIES: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("unknown pool", {"pool_name": "nowhere"}, 404, "pool-not-found", "pool_name"),
    ("unknown role", {"role_type": "wizard"}, 422, "role-not-found", "role_type"),
    ("another role", {"role_type": "tester"}, 422, "role-mismatch", "role_type"),
    ("wrong type", {"heartbeat_interval": "30"}, 400, "invalid-request", "heartbeat_interval"),
    ("a flag", {"max_idle_time": True}, 400, "invalid-request", "max_idle_time"),
    ("null", {"pool_name": None}, 400, "invalid-request", "pool_name"),
    ("unknown field", {"colour": "red"}, 400, "invalid-request", "colour"),
    ("negative", {"heartbeat_interval": -1}, 400, "invalid-request", "heartbeat_interval"),
    ("zero", {"pending_timeout": 0}, 400, "invalid-request", "pending_timeout"),
    ("too short", {"heartbeat_interval": 9.9}, 400, "invalid-request", "heartbeat_interval"),
    ("idle too short", {"max_idle_time": 59}, 400, "invalid-request", "max_idle_time"),
    ("too long", {"max_idle_time": 1e12}, 400, "invalid-request", "max_idle_time"),
    ("labels", {"labels": {f"l{n}": "" for n in range(17)}}, 400, "invalid-request", "labels"),
    ("label name", {"labels": {"a b": ""}}, 400, "invalid-request", "labels"),
    ("label value", {"labels": {"a": "\x00"}}, 400, "invalid-request", "labels[...]"),
    ("label type", {"labels": {"a": 1}}, 400, "invalid-request", "labels[...]"),
    ("project", {"project_id": "a b"}, 400, "invalid-request", "project_id"),
    ("line break", {"project_id": "apollo\n"}, 400, "invalid-request", "project_id"),
    ("empty", {"project_id": ""}, 400, "invalid-request", "project_id"),
    ("long", {"project_id": "p" * 129}, 400, "invalid-request", "project_id"),
    ("pool's name", {"pool_name": "a{b}"}, 400, "invalid-request", "pool_name"),
    ("input", {"input": {"a": "x" * 65_536}}, 400, "invalid-request", "input"),
    ("deep", {"input": nested(101)}, 400, "invalid-request", "input"),
    ("input type", {"input": [1]}, 400, "invalid-request", "input"),
    ("U+0000", {"input": {"a": "\x00"}}, 400, "invalid-request", "input"),
]


async def test_an_input_of_the_greatest_depth_is_in_every_answer(stage):
    """It is read back, and answered inside a larger document."""
    agent_id = await stage.pending(input=nested(100))
    lists = f"{AGENTS}?include=input"
    for path in (lists, f"{AGENTS}/{agent_id}", f"{lists}&as_of={POOL}:1"):
        answer = await stage.get(path)
        assert (answer.status, b'"input":{"x":[[' in answer.body) == (200, True)


async def test_a_spawn_that_is_not_valid_names_the_field(stage, subtests):
    for case, changes, status, kind, field in BODIES:
        async with refused(stage, subtests, case):
            answer = await stage.ask("POST", SPAWN, json=asked(**changes))
            assert (answer.status, answer.kind, answer.fields) == (status, kind, [field])


RAW: list[tuple[str, bytes, int, str, str]] = [
    ("malformed", b'{"project_id": ', 400, "malformed-json", "body"),
    ("not UTF-8", b'{"project_id": "\xff"}', 400, "malformed-json", "body"),
    ("empty", b"", 400, "malformed-json", "body"),
    ("a list", b"[]", 400, "invalid-request", "body"),
    ("null", b"null", 400, "invalid-request", "body"),
    ("no field", b"{}", 400, "invalid-request", "project_id"),
    ("too deep", DEEP, 400, "malformed-json", "body"),
    ("too large", b'{"a": "' + b"x" * 200_000 + b'"}', 413, "body-too-large", "body"),
    ("a lone surrogate", json.dumps(asked(input={"a": "\ud800"})).encode(), 400, "malformed-json",
     "body"),
    ("too large for a float", json.dumps(asked()).replace("}", ', "input": {"a": 1e999}}').encode(),
     400, "invalid-request", "input[...]"),
]  # fmt: skip


async def test_a_body_that_cannot_be_read_is_refused(stage, subtests):
    for case, body, status, kind, field in RAW:
        async with refused(stage, subtests, case):
            answer = await stage.ask("POST", SPAWN, data=body, headers=JSON)
            assert (answer.status, answer.kind, answer.fields) == (status, kind, [field])


CALLS: list[tuple[str, str, str, Any, int, str, list[str]]] = [
    ("id", "POST", TERMINATE, {"pool_name": POOL, "agent_id": "7"}, 400, "", ["agent_id"]),
    ("no pool", "POST", TERMINATE, {"agent_id": new_id()}, 400, "", ["pool_name"]),
    ("unknown pool", "POST", TERMINATE, {"pool_name": "nowhere", "agent_id": new_id()}, 404,
     "pool-not-found", ["pool_name"]),
    ("path id", "GET", f"{AGENTS}/7", None, 400, "", ["agent_id"]),
    ("upper case", "GET", f"{AGENTS}/{new_id().upper()}", None, 400, "", ["agent_id"]),
    ("cursor", "GET", f"{AGENTS}?cursor=%21", None, 400, "", ["cursor"]),
    ("foreign cursor", "GET", f"{AGENTS}?cursor=AAAA", None, 400, "", ["cursor"]),
    ("empty cursor", "GET", f"{AGENTS}?cursor=", None, 400, "", ["cursor"]),
    ("health cursor", "GET", f"{AGENTS}/health?cursor=AAAA", None, 400, "", ["cursor"]),
    ("status", "GET", f"{AGENTS}?status=asleep", None, 400, "", ["status[0]"]),
    ("limit", "GET", f"{AGENTS}?limit=0", None, 400, "", ["limit"]),
    ("limit's type", "GET", f"{AGENTS}?limit=ten", None, 400, "", ["limit"]),
    ("limit as a float", "GET", f"{AGENTS}?limit=1e3", None, 400, "", ["limit"]),
    ("a type of event", "GET", "/api/v1/events?type=bogus", None, 400, "", ["type[0]"]),
    ("twice", "GET", f"{AGENTS}?limit=1&limit=2", None, 400, "", ["limit"]),
    ("unknown parameter", "GET", f"{AGENTS}?colour=red", None, 400, "", ["colour"]),
    ("label", "GET", f"{AGENTS}?label=team", None, 400, "", ["label"]),
    ("label with U+0000", "GET", f"{AGENTS}?label=a:%00", None, 400, "", ["label"]),
    ("project", "GET", f"{AGENTS}/project/a%20b", None, 400, "", ["project_id"]),
    ("flag", "DELETE", f"{AGENTS}/{new_id()}?graceful=maybe", None, 400, "", ["graceful"]),
    ("events", "GET", "/api/v1/events?agent=7", None, 400, "", ["agent[0]"]),
    ("position", "GET", "/api/v1/events?after=nonsense", None, 400, "", ["after"]),
    ("no parameters", "GET", f"{AGENTS}/monitor/system?x=1", None, 400, "", ["x"]),
    ("pool's name", "GET", f"{POOLS}/A", None, 400, "", ["pool_name"]),
    ("no such pool", "GET", f"{POOLS}/nowhere", None, 404, "pool-not-found", ["pool_name"]),
    ("no such pool to change", "PATCH", f"{POOLS}/nowhere", {"config": {}}, 404, "pool-not-found",
     ["pool_name"]),
    ("an agent of no pool", "DELETE", f"{AGENTS}/{new_id()}?pool_name=nowhere", None, 404,
     "pool-not-found", ["pool_name"]),
    ("none to delete", "DELETE", f"{POOLS}/nowhere", None, 404, "pool-not-found", ["pool_name"]),
    ("force", "DELETE", f"{POOLS}/{POOL}?force=perhaps", None, 400, "", ["force"]),
    ("pool's role", "POST", POOLS, {"pool_name": "n", "role_type": "wizard"}, 422,
     "role-not-found", ["role_type"]),
    ("setting", "POST", POOLS, {"pool_name": "n", "role_type": "tester", "config": {"colour": 1}},
     400, "", ["config.colour"]),
    ("a setting's type", "PATCH", f"{POOLS}/{POOL}", {"config": {"max_workers": "ten"}}, 400, "",
     ["config.max_workers"]),
    ("settings that contradict", "PATCH", f"{POOLS}/{POOL}",
     {"config": {"min_workers": 5, "max_workers": 1}}, 400, "", ["config"]),
    ("no name", "GET", f"{AGENTS}?=1", None, 400, "", ["query"]),
    ("a name's controls", "GET", "/api/v1/lookup?name=a%00", None, 400, "", ["name"]),
    ("a body that is not read", "DELETE", f"{AGENTS}/{new_id()}", {"graceful": False}, 400, "",
     ["body"]),
    ("no such path", "GET", "/api/v2", None, 404, "not-found", []),
    ("no such file", "GET", "/static/0/..%2fkeys.py", None, 404, "not-found", []),
    ("method", "PUT", f"{AGENTS}/spawn", {}, 405, "method-not-allowed", []),
]  # fmt: skip


async def test_a_call_that_is_not_valid_names_what_is_wrong(stage, subtests):
    for case, method, path, body, status, kind, fields in CALLS:
        async with refused(stage, subtests, case):
            answer = await stage.ask(method, path, **({} if body is None else {"json": body}))
            assert (answer.status, answer.kind) == (status, kind or "invalid-request"), answer.body
            assert answer.fields == fields


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


async def test_every_path_names_the_methods_that_apply_to_it(stage):
    """Any other is a 405, with a body and without, and nothing is written."""
    document = (await stage.get("/openapi.json")).json
    before = await stage.heads()
    for path, calls in document["paths"].items():
        described = {method.upper() for method in calls}
        url = path.format(
            pool_name="p",
            agent_id=new_id(),
            project_id="p",
            name="ops",
            version="0",
            file="ask.js",
            parked_id="p",
            worker_id="w",
            token_name="t",
            dead_id="d",
        )
        for method in set(METHODS) - described:
            for options in ({}, {"json": asked()}):
                answer = await stage.ask(method, url, **options)
                assert (answer.status, answer.kind) == (405, "method-not-allowed"), (method, path)
                allowed = set(answer.headers["Allow"].split(", "))
                assert allowed - {"HEAD"} == described, (method, path)
    assert await stage.heads() == before


HEADERS: list[tuple[str, dict[str, str], int, str]] = [
    ("text", {"Content-Type": "text/plain"}, 415, "Content-Type"),
    ("a form", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "Content-Type"),
    ("another host", {"Host": "evil.example"}, 421, "Host"),
    ("a host with our name as prefix", {"Host": "localhost.evil.example"}, 421, "Host"),
    ("a key that is empty", {"Idempotency-Key": ""}, 400, "Idempotency-Key"),
    ("a key too long", {"Idempotency-Key": "k" * 256}, 400, "Idempotency-Key"),
    ("a key beyond ASCII", {"Idempotency-Key": "schlüssel"}, 400, "Idempotency-Key"),
    ("an id with a space", {"X-Request-Id": "a b"}, 400, "X-Request-Id"),
    ("a position", {"Muster-Position": "developer_pool:x"}, 400, "Muster-Position"),
    ("another encoding", {"Content-Type": "application/json; charset=utf-16"}, 415, "Content-Type"),
    ("a condition", {"If-Match": '"3"'}, 400, "If-Match"),
    ("an empty id", {"X-Request-Id": ""}, 400, "X-Request-Id"),
]


async def test_a_header_that_is_not_valid_is_named(stage, subtests):
    body = json.dumps(asked()).encode()
    for case, headers, status, field in HEADERS:
        async with refused(stage, subtests, case):
            answer = await stage.ask("POST", SPAWN, data=body, headers={**JSON, **headers})
            assert (answer.status, answer.fields) == (status, [field])
            assert answer.headers["Content-Type"].startswith("application/problem+json")


async def test_a_name_that_an_object_has_twice_is_named(stage, subtests):
    for name, first in (("pool_name", '"pool_name": "x",'), ("a", '"input": {"a": 1, "a": 2},')):
        async with refused(stage, subtests, name):
            body = json.dumps(asked()).replace("{", "{" + first, 1)
            answer = await stage.ask("POST", SPAWN, data=body, headers=JSON)
            assert (answer.status, answer.kind, answer.fields) == (400, "invalid-request", [name])


ONCE = ("Idempotency-Key", "Authorization", "X-Request-Id", "Muster-Durability", "Content-Type")


async def test_a_header_that_is_given_twice_is_named(stage, subtests):
    """Even with the same value: what is in front of a gateway may read another one."""
    for name in ONCE:
        async with refused(stage, subtests, name), connection(stage) as client:
            value = b"application/json" if name == "Content-Type" else b"accepted"
            line = b"%s: %s\r\n" % (name.encode(), value)
            missing = 1 if name == "Content-Type" else 2
            await client.send(POST + line * missing + b"Content-Length: 2\r\n\r\n{}")
            answer = await client.answer()
            problem = json.loads(answer.body)
            assert answer.status == 400
            assert [error["field"] for error in problem["errors"]] == [name]


async def test_a_parameter_that_is_not_utf_8_is_refused(stage):
    """A label with it would be sought, and not found."""
    async with connection(stage) as client:
        await client.send(b"GET /api/v1/agents?label=a:%ff HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await client.answer()
        problem = json.loads(answer.body)
    assert (answer.status, [one["field"] for one in problem["errors"]]) == (400, ["query"])
