"""`muster terminate` and `restart` of all agents that flags select: asked before, said after."""

import io
import json
import sys
from typing import Any

import pytest

from muster.cli.resources import selection
from tests.unit.muster.gateway_stub import AGENT, OTHER, agent, problem

BOTH = {"agents": [agent(), agent(OTHER)], "next": None}


class Keyboard(io.StringIO):
    """Standard input at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def many(gateway):
    """A gateway with two agents, of which one cannot be ended."""
    gateway.answers["GET "] = BOTH

    def end(request: Any) -> Any:
        if request.body["agent_id"] == OTHER:
            return 409, problem(409, "its hash is damaged", type="cannot-be-read")
        return agent(status="terminated", reason="requested")

    gateway.answers["POST /terminate"] = end
    return gateway


def posts(gateway: Any) -> list[Any]:
    return [request for request in gateway.requests if request.method == "POST"]


def test_the_typed_number_confirms_and_failures_are_listed(many, muster, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Keyboard("2\n"))
    code, out, err = muster("terminate", "--project", "demo", "--label", "team=red")
    assert code == 1
    assert "2 agents would be terminated. Type their number to go on: " in err
    assert "terminated: 1 of 2 agents (1 terminated); not terminated: 1\n" in err
    assert f"{OTHER}: its hash is damaged" in err
    assert out.split()[3:] == [AGENT, "terminated", "requested"]
    query = many.requests[0].query
    assert (query["project_id"], query["label"]) == ("demo", "team:red")
    assert query["status"] == "pending,starting,running,stopping,restarting"
    assert {request.body["pool_name"] for request in posts(many)} == {"night"}


@pytest.mark.parametrize("typed", ["1\n", "\n", "yes\n", ""])
def test_another_word_than_the_number_does_nothing(many, muster, monkeypatch, typed):
    monkeypatch.setattr(sys, "stdin", Keyboard(typed))
    code, _, err = muster("terminate", "--pool", "night")
    assert (code, posts(many)) == (1, [])
    assert err.endswith("is not 2: no agent was terminated\n")


def test_without_a_terminal_the_number_is_said_and_nothing_done(many, muster, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("2\n"))
    code, _, err = muster("restart", "--state", "failed")
    assert (code, posts(many)) == (2, [])
    assert "2 agents would be restarted: --yes does it without asking" in err


@pytest.mark.parametrize("words", [["terminate", "--pool", "night"], ["restart", "--role", "dev"]])
def test_a_dry_run_lists_the_agents_and_does_nothing(many, muster, words):
    code, out, err = muster(*words, "--dry-run")
    assert (code, posts(many)) == (0, [])
    assert [line.split()[0] for line in out.splitlines()[1:]] == [AGENT, OTHER]
    assert f"(2 agents would be {words[0].removesuffix('e')}ed; nothing was done)" in err
    rows = json.loads(muster(*words, "--dry-run", "--json")[1])
    assert [row["agent_id"] for row in rows] == [AGENT, OTHER]


def test_a_dry_run_of_a_named_agent_shows_it(many, muster):
    many.answers[f"GET /{AGENT}"] = agent()
    code, out, _ = muster("terminate", AGENT, "-n")
    assert (code, AGENT in out, posts(many)) == (0, True, [])


def test_more_agents_than_can_be_meant_are_refused(many, muster, monkeypatch):
    monkeypatch.setattr(selection, "SELECTED_MAX", 1)
    code, _, err = muster("terminate", "--pool", "night", "--yes")
    assert (code, posts(many)) == (1, [])
    assert "these are more than 1 agents; select fewer of them" in err


def test_of_many_only_the_summary_is_printed(many, muster):
    ids = [f"01936b3e-7c1f-7e60-9f52-{n:012}" for n in range(21)]
    many.answers["GET "] = {"agents": [agent(one) for one in ids], "next": None}
    code, out, err = muster("terminate", "--pool", "night", "--yes")
    assert (code, out) == (0, "")
    assert err == "terminated: 21 of 21 agents (21 terminated)\n"
    assert len(muster("terminate", "--pool", "night", "--yes", "-o", "name")[1].split()) == 21


def test_none_is_no_error(many, muster):
    many.answers["GET "] = {"agents": [], "next": None}
    many.answers["GET /api/v1/lookup"] = {"matches": [{"kind": "pool", "name": "night"}]}
    code, _, err = muster("terminate", "--pool", "night", "--yes")
    assert (code, err) == (0, "no agents to be terminated\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["terminate"], "expected agents, or one or more of --pool, --project, --role, --label"),
        (["terminate", AGENT, "--project", "demo"], "expected either agents or --project, not"),
        (["restart", AGENT, "--failed"], "expected either agents or --state, not both"),
        (["restart", AGENT, "--pool", "night"], "expected either agents or --pool, not both"),
    ],
)
def test_what_is_unclear_is_refused(many, muster, words, said):
    code, _, err = muster(*words)
    assert (code, many.requests) == (2, [])
    assert said in err


def test_a_state_that_does_not_exist_is_named(many, muster):
    code, _, err = muster("terminate", "--state", "runing", "--yes")
    assert (code, many.requests) == (1, [])
    assert "did you mean `running`?" in err
