"""`muster ps`, `terminate`, `restart`, `parked`: lists of agents, one agent, the end of some."""

import json
from typing import Any

import pytest

from tests.unit.muster.gateway_stub import AGENT, API, ERROR, OTHER, Request, agent


def test_ps_follows_pages_and_shortens_errors(gateway, muster):
    failing = agent(OTHER, status="restarting", reason="crashed", last_error=ERROR)

    def page(request: Request) -> dict[str, Any]:
        first = "cursor" not in request.query
        link = f"{API}?pool_name=night&limit=1000&cursor=abc" if first else None
        return {"agents": [agent() if first else failing], "next": link}

    gateway.answers["GET "] = page
    code, out, _ = muster("ps", "--pool", "night", "--label", "team=red")
    assert (code, gateway.requests[0].query["label"]) == (0, "team:red")
    heading, one, two = (line.split() for line in out.splitlines())
    assert " ".join(heading) == "AGENT POOL ROLE PROJECT STATUS ACTIVITY WORKER INC AGE REASON"
    assert one[:5] == [AGENT, "night", "developer", "demo", "running"]
    assert " ".join(two[9:]) == "crashed (ValueError: no luck)"
    assert [request.query.get("cursor") for request in gateway.requests] == [None, "abc"]


def test_ps_shows_no_more_than_the_limit(gateway, muster):
    gateway.answers["GET "] = {"agents": [agent(), agent(OTHER)], "next": f"{API}?cursor=x"}
    code, out, _ = muster("ps", "--limit", "1", "--json")
    assert (code, [found["agent_id"] for found in json.loads(out)]) == (0, [AGENT])
    assert gateway.requests[0].query["limit"] == "1"


def test_ps_includes_ended_agents_where_their_status_is_requested(gateway, muster):
    gateway.answers["GET "] = {"agents": [], "next": None}
    assert muster("ps", "--status", "failed")[1] == ""
    assert muster("ps")[2] == "no agents\n"
    assert [request.query.get("include_ended") for request in gateway.requests] == ["true", None]


def streamed(*kinds: str, first: dict[str, Any] | None = None) -> bytes:
    """The events of one agent as they are streamed; the data of the first."""
    events = [
        {"pool": "night", "stream_id": f"{n}-0", "type": kind, "seq": n, "ts": n, "incarnation": 1,
         "worker_id": "", "subject": AGENT, "data": (first or {}) if n == 1 else {}}
        for n, kind in enumerate(kinds, 1)
    ]  # fmt: skip
    return "".join(f"id: x\ndata: {json.dumps(event)}\n\n" for event in events).encode()


def fact(out: str, name: str) -> str:
    """The text after a label of an agent's description; empty where there is no such line."""
    lines = [line for line in out.splitlines() if line.startswith(f"{name:<16}")]
    return lines[0][16:] if lines else ""


def test_worker_deaths_are_counted_from_the_history_and_isolation_is_shown_while_it_lasts(
    gateway, muster
):
    """Of those that make an agent suspect two at most are remembered; later ones are failures."""
    life = ["agent.requested", *["agent.lost"] * 5, "agent.failed"]
    gateway.answers["GET /api/v1/events"] = streamed(*life)
    error = {"type": "WorkerLost", "message": "exited", "traceback": ""}
    fields: dict[str, Any] = {"losses": 2, "failures": 3, "alone": True, "last_error": error}
    gateway.answers[f"GET /{AGENT}"] = agent(version=7, **fields)
    out = muster("ps", AGENT)[1]
    assert fact(out, "worker deaths") == "5"
    assert fact(out, "failures") == (
        "3 within the restart window, including deaths of its worker while it was isolated"
    )
    assert fact(out, "isolated").startswith("until it has run well for a while")
    gateway.answers[f"GET /{AGENT}"] = agent(version=9, status="failed", **fields)
    out = muster("ps", AGENT)[1]
    assert fact(out, "worker deaths") == "5 or more"
    assert fact(out, "isolated") == ""


def test_a_parked_agent_is_shown_with_the_reason(gateway, muster):
    """The registry still has its last readable state."""
    name = f"night:agent:{AGENT}"
    record = {"id": name, "source": "agent", "subject": AGENT, "reason": "its hash is gone"}
    gateway.answers["GET /api/v1/parked"] = {"parked": [{**record, "subject": OTHER}, record]}
    gateway.answers[f"GET /{AGENT}"] = agent()
    out = muster("ps", AGENT)[1]
    assert fact(out, "parked") == f"its hash is gone (muster parked retry|drop {name})"
    assert json.loads(muster("ps", AGENT, "--json")[1])["parked"]["id"] == name
    assert fact(muster("ps", AGENT, "--as-of", "-1h")[1], "parked") == ""
    gateway.answers["GET /api/v1/parked"] = {"parked": []}
    assert json.loads(muster("ps", AGENT, "--json")[1])["parked"] is None


def test_one_agent_is_shown_with_its_traceback_and_history(gateway, muster):
    gateway.answers[f"GET /{AGENT}"] = agent(version=2, last_error=ERROR, labels={"team": "red"})
    history = streamed("agent.requested", "agent.claimed", first={"project_id": "demo"})
    gateway.answers["GET /api/v1/events"] = b"retry: 2000\n\n" + history
    code, out, err = muster("ps", AGENT.upper())
    assert (code, err) == (0, "")
    assert "labels          team=red\n" in out
    assert "last error:\n  Traceback\n  ValueError: no\n" in out
    first, last = (line.split() for line in out.splitlines()[-2:])
    assert first[-4:] == ["night:1", "agent.requested", AGENT, "project_id=demo"]
    assert last[-3:] == ["night:2", "agent.claimed", AGENT]
    assert gateway.requests[1].query == {"pool": "night", "agent": AGENT, "after": "0"}
    document = json.loads(muster("ps", AGENT, "--json")[1])
    assert [event["type"] for event in document["events"]] == ["agent.requested", "agent.claimed"]


@pytest.mark.parametrize(
    ("source", "action", "printed"),
    [
        ("heartbeat", "retry", "was removed"),
        ("command", "drop", "was removed"),
        ("agent", "retry", "was restored"),
        ("agent", "drop", "was ended"),
    ],
)
def test_retry_and_drop_print_what_they_did(gateway, muster, source, action, printed):
    call = "POST /api/v1/parked/x/retry" if action == "retry" else "DELETE /api/v1/parked/x"
    gateway.answers[call] = {"id": "x", "source": source}
    assert muster("parked", action, "x")[:2] == (0, f"x {printed}\n")


def test_terminate_finds_the_pool_and_prints_every_result(gateway, muster):
    gateway.answers[f"GET /{AGENT}"] = agent()
    gateway.answers["POST /terminate"] = agent(status="terminated", reason="requested")
    code, out, err = muster("terminate", AGENT, OTHER, "--now")
    assert code == 1
    assert out.splitlines()[1].split() == [AGENT, "terminated", "requested"]
    assert err == f"muster terminate: {OTHER}: there is nothing here\n"
    (request,) = [request for request in gateway.requests if request.method == "POST"]
    assert request.body == {"pool_name": "night", "agent_id": AGENT, "graceful": False}


def test_an_agent_is_shown_with_its_state_and_its_last_save_of_several(gateway, muster):
    answer = agent(version=4, save=3, state_size=1048576, saved_at=1)
    gateway.answers[f"GET /{AGENT}"] = answer
    history = streamed("agent.requested", "agent.saved", "agent.saved", "agent.released")
    gateway.answers["GET /api/v1/events"] = b"retry: 2000\n\n" + history
    _, out, err = muster("ps", AGENT)
    assert "saved state     1,048,576 bytes, " in out
    assert ", save 3\n" in out
    shown = [word for word in out.split() if word.startswith("agent.")]
    assert shown == ["agent.requested", "agent.saved", "agent.released"]
    assert "(earlier saves that are not shown: 1)" in err


def test_a_restart_discards_the_state_of_named_agents_only(gateway, muster):
    gateway.answers[f"POST /{AGENT}/restart"] = agent(status="running")
    assert muster("restart", AGENT, "--discard-state")[0] == 0
    assert gateway.requests[-1].body == {"discard_state": True}
    code, _, err = muster("restart", "--failed", "--discard-state")
    assert (code, "expected the agents whose state is to be deleted" in err) == (2, True)


def test_restart_sends_each_agent_its_request(gateway, muster):
    gateway.answers[f"POST /{AGENT}/restart"] = agent(status="pending", reason="restart-requested")
    code, out, err = muster("restart", AGENT, OTHER, "--reason", "repaired")
    assert code == 1
    assert out.splitlines()[1].split() == [AGENT, "pending", "restart-requested"]
    assert err == f"muster restart: {OTHER}: there is nothing here\n"
    assert [request.body for request in gateway.requests] == [{"reason": "repaired"}] * 2


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        (["--failed"], {"status": "failed"}),
        (["--failed", "--pool", "night"], {"status": "failed", "pool_name": "night"}),
        (
            ["--pool", "night"],
            {"status": "starting,running,restarting,failed", "pool_name": "night"},
        ),
    ],
)
def test_restart_of_many_asks_which_they_are(gateway, muster, flags, asked):
    gateway.answers["GET "] = {"agents": [agent(), agent(OTHER)], "next": None}
    for one in (AGENT, OTHER):
        gateway.answers[f"POST /{one}/restart"] = agent(one, status="pending")
    code, out, _ = muster("restart", *flags, "-o", "name", "--yes")
    assert (code, out.split()) == (0, [AGENT, OTHER])
    query = gateway.requests[0].query
    assert {name: query[name] for name in asked} == asked
    assert ("pool_name" in query) == ("pool_name" in asked)


@pytest.mark.parametrize("words", [[], [AGENT, "--failed"], [AGENT, "--pool", "night"]])
def test_restart_needs_agents_or_which_of_them(gateway, muster, words):
    assert muster("restart", *words)[0] == 2
    assert gateway.requests == []


def test_terminate_refuses_an_invalid_id(gateway, muster):
    assert muster("terminate", AGENT, "7")[0] == 2
    assert gateway.requests == []
