"""Names, shortened ids and typos on the command line."""

import json
from typing import Any

import pytest

from tests.unit.muster.gateway_stub import AGENT, OTHER, POOL, Request, agent, problem

LOOKUP = "GET /api/v1/lookup"
WORKER = "01936b3e-7c1f-7e60-9f52-0000000000aa"
NAMES = {
    "agent": [AGENT, OTHER],
    "worker": [WORKER],
    "pool": ["night"],
    "project": ["demo"],
    "role": ["developer"],
}


@pytest.fixture
def known(gateway):
    """A gateway that knows two agents, a worker and some names, and lists nothing."""

    def look_up(request: Request) -> dict[str, Any]:
        name = request.query["name"].lower()
        kinds = request.query.get("kind", ",".join(NAMES)).split(",")
        matches = [
            {"kind": kind, "name": one, "pool_name": "night", "status": "running"}
            for kind in kinds
            for one in NAMES[kind]
            if name == one or (len(one) == 36 and (one.startswith(name) or one.endswith(name)))
        ]
        message = "" if matches else f"no {' or '.join(kinds)} `{name}`; did you mean `x`?"
        return {"matches": matches, "message": message}

    gateway.answers[LOOKUP] = look_up
    for call, items in (("", "agents"), ("/workers", "workers"), ("/pools", "pools")):
        gateway.answers[f"GET {call}"] = {items: [], "next": None}
    gateway.answers["GET /api/v1/parked"] = {"parked": []}
    gateway.answers["GET /api/v1/events"] = b""
    return gateway


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("ps --pool nihgt", "pool"),
        ("ps --project domo", "project"),
        ("ps --role devloper", "role"),
        ("ps --pool nihgt --watch", "pool"),
        ("workers --pool nihgt -o name", "pool"),
        ("parked list --pool nihgt --json", "pool"),
        ("describe nihgt", "agent or worker or pool"),
    ],
)
def test_a_typo_in_a_filter_is_no_empty_answer(known, muster, words, kind):
    command = " ".join(words.split()[: 2 if words.startswith("parked") else 1])
    name = next(word for word in words.split() if word in ("nihgt", "domo", "devloper"))
    assert muster(*words.split()) == (
        1,
        "",
        f"muster {command}: no {kind} `{name}`; did you mean `x`?\n",
    )


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ("ps --status runing", "muster ps: no status `runing`; did you mean `running`?\n"),
        ("ps --status running,faild", "muster ps: no status `faild`; did you mean `failed`?\n"),
        ("ps --sort agge", "muster ps: --sort: no column `agge`; did you mean `age`?\n"),
        (
            "pools --sort used_cap",
            "muster pools: --sort: no column `used_cap`; did you mean `used_capacity`?\n",
        ),
        (
            "tail --redis-url redis://127.0.0.1:1 --type agent.startd",
            "muster tail: no type of event `agent.startd`; did you mean `agent.started`?\n",
        ),
        (
            "tail --redis-url redis://127.0.0.1:1 --type wroker.*",
            "muster tail: no type of event `wroker.*`",
        ),
    ],
)  # fmt: skip
def test_a_typo_in_a_word_that_muster_knows_is_refused(gateway, muster, words, printed):
    code, out, err = muster(*words.split())
    assert (code, out, gateway.requests) == (1, "", [])
    assert err.startswith(printed)


def test_a_typo_in_a_label_is_refused(known, muster):
    labelled = agent(labels={"team": "red"})
    known.answers["GET "] = lambda request: {
        "agents": [] if "label" in request.query else [labelled],
        "next": None,
    }
    assert muster("ps", "--label", "taem=red")[::2] == (
        1,
        "muster ps: no label `taem`; did you mean `team`?\n",
    )
    assert muster("ps", "--label", "team=rde")[::2] == (
        1,
        "muster ps: no label `team=rde`; did you mean `team=red`?\n",
    )


def test_an_empty_answer_to_what_exists_is_no_error(known, muster):
    assert muster("ps", "--pool", "night", "--project", "demo") == (0, "", "no agents\n")
    assert muster("workers", "--pool", "night", "-o", "name") == (0, "", "")


def test_a_gateway_without_look_ups_is_served_as_before(known, muster):
    known.answers[LOOKUP] = (
        404,
        {**problem(404, "no resource has this path"), "type": "not-found"},
    )
    assert muster("ps", "--pool", "nihgt") == (0, "", "no agents\n")
    assert "too old" in muster("ps", AGENT[-8:])[2]


@pytest.mark.parametrize(
    "text", [AGENT[-6:], AGENT[-8:].upper(), f"…{AGENT[-8:]}", f"agent/{AGENT}", AGENT]
)
def test_an_agent_is_named_by_a_part_of_its_id(known, muster, text):
    known.answers[f"GET /{AGENT}"] = agent()
    known.answers["POST /terminate"] = agent(status="terminated", reason="requested")
    assert f"agent           {AGENT}\n" in muster("ps", text)[1]
    assert f"agent           {AGENT}\n" in muster("describe", text)[1]
    assert muster("terminate", text, "-o", "name") == (0, f"{AGENT}\n", "")


@pytest.mark.parametrize("command", ["ps", "terminate", "describe"])
def test_a_part_of_several_ids_is_refused_with_the_candidates(known, muster, command):
    code, out, err = muster(command, AGENT[:13])
    assert (code, out) == (2, "")
    assert err.startswith(
        f"muster {command}: `{AGENT[:13]}` may be any of these:\n  agent  {AGENT}"
    )
    assert f"  agent  {OTHER}  night  running\n" in err


def test_only_agents_can_be_ended(known, muster):
    """It is said what else has the id."""
    code, _, err = muster("terminate", "0000aa")
    assert code == 1
    assert err == f"muster terminate: `0000aa` is no agent, but: worker  {WORKER}  night  running\n"
    assert muster("terminate", "night")[0] == 2
    assert muster("terminate", f"worker/{WORKER}")[0] == 2


def test_agents_of_a_worker_are_found_by_a_part_of_its_id(known, muster):
    muster("ps", "--worker", "0000aa")
    assert known.requests[-1].query["process_id"] == WORKER


def test_workers_and_pools_are_described_with_what_they_hold(known, muster):
    worker = {"worker_id": WORKER, "pool_name": "night", "status": "active", "agent_count": 1}
    known.answers[f"GET /workers/{WORKER}"] = worker
    known.answers["GET "] = {"agents": [agent()], "next": None}
    known.answers["GET /workers"] = {"workers": [worker], "next": None}
    out = muster("describe", "0000aa")[1]
    assert f"worker          {WORKER}\n" in out
    assert f"\n{AGENT}   night" in out
    assert json.loads(muster("describe", "0000aa", "--json")[1])["agents"] == [agent()]
    out = muster("describe", "night")[1]
    assert "max_workers" in out
    assert f"\n{WORKER}   night" in out
    assert json.loads(muster("describe", "night", "-o", "jsonl")[1]) == {
        **POOL,
        "workers": [worker],
    }
