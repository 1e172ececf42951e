"""`muster explain`: what it asks for and prints."""

import json

from tests.unit.muster.gateway_stub import AGENT

CAUSE = {"event": "e0", "position": "night:3", "type": "worker.lost", "text": "Lost: x", "ts": 1}
LINES = [
    {"text": "Requested over HTTP", "event": "e1", "position": "night:1", "ts": 1},
    {"text": "Its worker died", "event": "e2", "position": "night:4", "ts": 2, "cause": CAUSE},
    {"text": "Again", "event": "e3", "position": "night:5", "ts": 3, "cause": {"event": "e2"}},
]
ANSWER = {"kind": "agent", "name": AGENT, "pool_name": "night", "now": "pending", "lines": LINES}


def found(kind: str, name: str) -> dict[str, object]:
    return {"matches": [{"kind": kind, "name": name}]}


def test_each_line_has_its_position_and_its_cause_where_that_is_another_one(gateway, muster):
    gateway.answers["GET /api/v1/lookup"] = found("agent", AGENT)
    gateway.answers[f"GET /{AGENT}/explain"] = ANSWER
    code, out, _ = muster("explain", AGENT[-8:])
    assert code == 0
    assert out.splitlines()[:2] == [f"agent {AGENT} of pool night", "now: pending"]
    lines = [line.split("  ", 1)[1].strip() for line in out.splitlines()[2:]]
    assert lines == [
        "night:1               Requested over HTTP",
        "night:4               Its worker died",
        "because of night:3: Lost: x",
        "night:5               Again",
    ]
    assert gateway.requests[-1].query == {"limit": "20"}


def test_what_is_left_out_is_counted_and_can_be_asked_for(gateway, muster):
    gateway.answers["GET /api/v1/lookup"] = found("pool", "night")
    gateway.answers["GET /pools/night/explain"] = {**ANSWER, "kind": "pool", "left_out": 1200}
    _, out, err = muster("explain", "night")
    assert "1,200 events left out" in out + err
    muster("explain", "night", "--all", "--as-of", "-1h")
    assert gateway.requests[-1].query["limit"] == "1000"
    assert "as_of" in gateway.requests[-1].query


def test_a_program_gets_the_answer_as_it_is(gateway, muster):
    gateway.answers["GET /api/v1/lookup"] = found("worker", AGENT)
    gateway.answers[f"GET /workers/{AGENT}/explain"] = ANSWER
    _, out, _ = muster("explain", AGENT, "--json")
    assert json.loads(out) == ANSWER


def test_a_number_that_cannot_be_is_refused(gateway, muster):
    code, _, err = muster("explain", AGENT, "--limit", "0")
    assert (code, err) == (2, "muster explain: --limit: 0 is not a number from 1 to 1,000\n")
    assert gateway.requests == []
