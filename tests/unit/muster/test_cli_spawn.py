"""`muster spawn`: what it sends, and what it prints of the answers."""

import json
import threading
from typing import Any

import pytest

from tests.unit.muster.gateway_stub import AGENT, ERROR, Request, agent, problem


def test_a_spawn_sends_only_set_fields_and_the_role_of_the_pool(gateway, muster):
    gateway.answers["POST /spawn"] = agent(process_id="w1")
    code, out, _ = muster("spawn", "night", "--project", "demo")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["AGENT", "STATUS", "WORKER", "REASON"],
        [AGENT, "running", "w1", "-"],
    ]
    request = gateway.requests[-1]
    assert request.body == {"project_id": "demo", "role_type": "developer", "pool_name": "night"}
    assert request.headers["Prefer"] == "wait=5"
    assert len(request.headers["Idempotency-Key"]) == 36


def test_all_flags_of_a_spawn_are_sent(gateway, muster):
    gateway.answers["POST /spawn"] = (202, agent(status="pending"))
    words = "--role tester --max-idle-time never --heartbeat-interval 20 --no-wait --key k1"
    words += " --priority 9 --expected-seconds 86400"
    more = ("--input", '{"a": 1}', "--label", "team=red", "--label", "x=", "--pending-timeout", "9")
    code, out, _ = muster("spawn", "night", "--project", "demo", *words.split(), *more, "--json")
    assert (code, json.loads(out)["status"]) == (0, "pending")
    (request,) = gateway.requests
    assert request.body == {
        "project_id": "demo",
        "role_type": "tester",
        "pool_name": "night",
        "heartbeat_interval": 20,
        "max_idle_time": None,
        "pending_timeout": 9,
        "priority": 9,
        "expected_seconds": 86400,
        "input": {"a": 1},
        "labels": {"team": "red", "x": ""},
    }
    assert (request.headers["Prefer"], request.headers["Idempotency-Key"]) == (
        "respond-async",
        "k1",
    )


def test_several_spawns_have_a_key_each_and_are_sent_at_once(gateway, muster):
    together = threading.Barrier(4, timeout=10)

    def answer(request: Request) -> dict[str, Any]:
        together.wait()  # breaks unless four are requested before the first is answered
        return agent(f"{AGENT[:-1]}{request.headers['Idempotency-Key'][-1]}")

    gateway.answers["POST /spawn"] = answer
    words = ("spawn", "night", "--project", "demo", "--count", "4", "--key", "k", "--json")
    code, out, _ = muster(*words)
    ids = [json.loads(line)["agent_id"] for line in out.splitlines()]
    assert (code, ids) == (0, [f"{AGENT[:-1]}{n}" for n in "1234"])


def test_a_level_that_was_not_reached_is_reported_and_the_agents_shown(gateway, muster):
    """They are accepted, so they have not failed; a script can check the exit code."""
    gateway.answers["POST /spawn"] = lambda _: (202, agent())
    gateway.headers["Muster-Durability-Pending"] = 'replicated; reason="0 of 1 replicas have it"'
    words = ("spawn", "night", "--project", "demo", "--role", "r", "--durability", "replicated")
    code, out, err = muster(*words, "--count", "3")
    assert code == 1
    assert out.count(AGENT) == 3
    printed = "accepted, but not yet replicated: 0 of 1 replicas have it (3 times)"
    assert err == f"muster spawn: {printed}\n"
    assert [request.headers["Muster-Durability"] for request in gateway.requests] == [
        "replicated"
    ] * 3


def test_equal_refusals_are_printed_once(gateway, muster):
    gateway.answers["POST /spawn"] = (429, problem(429, "7 spawns wait"))
    code, out, err = muster("spawn", "night", "--project", "demo", "--count", "3")
    assert (code, out, err) == (1, "", "muster spawn: 7 spawns wait (3 times)\n")


def test_a_start_that_failed_is_printed_with_its_error(gateway, muster):
    detail = "ValueError: no luck; it will be tried again"
    gateway.answers["POST /spawn"] = (502, problem(502, detail, agent_id=AGENT, error=ERROR))
    code, _, err = muster("spawn", "night", "--project", "demo")
    assert (code, err.splitlines()[0]) == (1, f"muster spawn: {detail}")


def test_a_spawn_without_an_answer_names_the_key_to_repeat_it_with(gateway, muster):
    def hang_up(_: Request) -> None:
        raise ConnectionAbortedError

    gateway.answers["POST /spawn"] = hang_up
    gateway.server.handle_error = lambda *_: None
    code, _, err = muster("spawn", "night", "--project", "demo", "--key", "order-1")
    assert code == 3
    assert "accepted the request, but" in err
    assert "--key order-1" in err


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (("--input", "{"), "--input: this is not JSON"),
        (("--input", "[]"), "--input: expected a JSON object"),
        (("--label", "x"), "--label: 'x' is not of the form name=value"),
        (("--priority", "10"), "--priority: 10 is not between 0 and 9"),
        (("--count", "0"), "--count: 0 is not between 1 and"),
        (("--wait", "long"), "--wait: 'long' is not a number of seconds"),
        (("--max-idle-time", "x"), "--max-idle-time: 'x' is not a number"),
        (("--key", "a\nb"), "--key: expected printable ASCII"),
    ],
)
def test_bad_input_is_one_line_and_sends_no_request(gateway, muster, words, printed):
    code, _, err = muster("spawn", "night", "--project", "demo", *words)
    assert (code, err.count("\n"), gateway.requests) == (2, 1, [])
    assert err.startswith(f"muster spawn: {printed}")
