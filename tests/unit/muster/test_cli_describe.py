"""`muster describe`: an agent, a worker or a pool in one screen, with what happened and why."""

import json

import pytest

from tests.unit.muster.gateway_stub import AGENT, ERROR, OTHER, agent
from tests.unit.muster.test_cli_agents import streamed
from tests.unit.muster.test_cli_explain import ANSWER, found

WORKER = {"worker_id": OTHER, "pool_name": "night", "host": "h", "status": "active"}


@pytest.fixture
def described(gateway):
    """A gateway with an agent, a worker and a pool."""
    gateway.answers |= {
        f"GET /{AGENT}": agent(version=22, status="failed", last_error=ERROR),
        f"GET /{AGENT}/explain": {**ANSWER, "now": "failed since 14:03", "left_out": 19},
        "GET /api/v1/events": streamed(*["agent.claimed"] * 22),
        f"GET /workers/{OTHER}": WORKER,
        f"GET /workers/{OTHER}/explain": {**ANSWER, "now": "active since 14:00"},
        "GET /workers": {"workers": [WORKER], "next": None},
        "GET ": {"agents": [agent()], "next": None},
        "GET /pools/night/explain": {**ANSWER, "now": "1 worker"},
    }
    return gateway


def test_an_agent_has_its_error_and_why_and_its_last_events(described, muster):
    described.answers["GET /api/v1/lookup"] = found("agent", AGENT)
    code, out, err = muster("describe", "agent", AGENT[-8:])
    assert code == 0
    assert described.requests[0].query == {"name": AGENT[-8:], "kind": "agent"}
    parts = out.split("\n\n")
    assert parts[1].startswith("last error:\n  Traceback")
    why = parts[2].splitlines()
    assert why[:2] == ["why:", "  failed since 14:03"]
    assert "because of night:3: Lost: x" in parts[2]
    assert f"(19 events left out: muster explain agent/{AGENT} --all)" in err
    assert parts[3].count("agent.claimed") == 20
    assert f"(2 earlier events: muster ps {AGENT})" in err


@pytest.mark.parametrize(
    ("words", "kind", "name", "why"),
    [
        (["worker", OTHER], "worker", OTHER, "active since 14:00"),
        (["pools", "night"], "pool", "night", "1 worker"),
        (["night"], "pool", "night", "1 worker"),
    ],
)
def test_a_worker_and_a_pool_are_explained_too(described, muster, words, kind, name, why):
    described.answers["GET /api/v1/lookup"] = found(kind, name)
    code, out, _ = muster("describe", *words)
    assert (code, f"\nwhy:\n  {why}\n" in out) == (0, True)
    assert "why:" not in muster("describe", *words, "--json")[1]


def test_what_may_not_be_explained_is_described_nevertheless(described, muster):
    described.answers["GET /api/v1/lookup"] = found("worker", OTHER)
    del described.answers[f"GET /workers/{OTHER}/explain"]
    code, out, err = muster("describe", OTHER)
    assert (code, "host            h" in out) == (0, True)
    assert "(not explained: there is nothing here)" in err


@pytest.mark.parametrize("words", [["agnet", AGENT], ["agent", AGENT, OTHER]])
def test_other_words_are_refused(described, muster, words):
    code, _, err = muster("describe", *words)
    assert (code, described.requests) == (2, [])
    assert "expected agent, worker or pool, and its name or id" in err


def test_a_program_gets_the_agent_as_before(described, muster):
    described.answers["GET /api/v1/lookup"] = found("agent", AGENT)
    assert json.loads(muster("describe", AGENT, "--json")[1])["agent_id"] == AGENT
