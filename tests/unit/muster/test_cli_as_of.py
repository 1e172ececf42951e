"""`--as-of`: what is sent and printed of an earlier time; and of how old an answer may be."""

import time

import pytest

from tests.unit.muster.gateway_stub import AGENT, POOL, agent


def test_a_point_in_time_is_written_as_people_do_and_sent_in_ms(gateway, muster):
    """Ages are relative to that time, which is printed."""
    spawned = [agent(created_at=1_795_529_000_000)]
    gateway.answers["GET "] = lambda request: {
        "agents": [] if request.query["as_of"] == "night:0" else spawned,
        "next": None,
    }
    gateway.headers = {"Muster-As-Of": "1795529010000,night:1:7"}
    _, out, err = muster("ps", "--as-of", "2026-11-24T14:03:30Z")
    assert gateway.requests[0].query["as_of"] == "1795529010000"
    assert out.splitlines()[1].split()[-2] == "10s"
    assert err.startswith("as of ")
    muster("ps", "--as-of", "-15m")
    asked_ms = int(gateway.requests[1].query["as_of"])
    assert abs(time.time() * 1000 - 900_000 - asked_ms) < 60_000
    for position in ("night:7", "night:1:7", ":3", "night:7,day:2"):
        muster("ps", f"--as-of={position}")
        assert gateway.requests[-1].query["as_of"] == position
    for written, sent in (
        ("catalogue:3", ":3"),
        ("night:7,catalogue:1:3", "night:7,:1:3"),
        ("my-catalogue:3", "my-catalogue:3"),
    ):
        muster("ps", f"--as-of={written}")
        assert gateway.requests[-1].query["as_of"] == sent
    gateway.headers = {"Muster-As-Of": "0,night:0"}
    assert muster("ps", "--as-of", "night:0")[2] == "as of before the first event\nno agents\n"
    muster("ps", "--as-of", "14:03")
    clock = time.localtime(int(gateway.requests[-1].query["as_of"]) / 1000)
    assert clock[3:6] == (14, 3, 0)


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (["pools", "--as-of", "-1h"], "GET /pools"),
        (["pools", "night", "--as-of", "-1h"], "GET /pools/night"),
        (["pools", "--as-of", "-1h", "show", "night"], "GET /pools/night"),
        (["workers", "--as-of", "-1h"], "GET /workers"),
        (["ps", AGENT, "--as-of", "-1h"], f"GET /{AGENT}"),
    ],
)
def test_pools_workers_and_one_agent_can_be_shown_at_an_earlier_time(gateway, muster, words, call):
    gateway.answers |= {"GET /pools": {"pools": [POOL]}, "GET /workers": {"workers": []}}
    gateway.answers[f"GET /{AGENT}"] = agent()
    assert muster(*words)[0] == 0
    assert gateway.requests[0].call == call
    assert abs(time.time() * 1000 - 3_600_000 - int(gateway.requests[0].query["as_of"])) < 60_000


def test_the_past_cannot_be_watched_and_invalid_times_are_refused(gateway, muster):
    assert muster("ps", "--watch", "--as-of", "-1h")[0] == 2
    code, _, err = muster("ps", "--as-of", "yesterday")
    assert (code, err.partition(":")[0]) == (2, "muster ps")
    assert "or 2026-11-24T14:03, nor an event (POOL:SEQ" in err
    assert gateway.requests == []


@pytest.mark.parametrize(
    ("words", "call", "body"),
    [
        (["ps"], "GET ", {"agents": [], "next": None}),
        (["ps", AGENT], f"GET /{AGENT}", agent()),
        (["pools"], "GET /pools", {"pools": [POOL]}),
        (["pools", "night"], "GET /pools/night", POOL),
        (["workers"], "GET /workers", {"workers": []}),
    ],
)
def test_the_possible_age_of_an_answer_is_printed_once(gateway, muster, words, call, body):
    gateway.answers[call] = body
    gateway.headers = {"Muster-Stale": "true", "Muster-Age-Ms": "61001"}
    code, _, err = muster(*words)
    assert code == 0
    assert err.splitlines()[0] == (
        "(this may be up to 1m02s old: the log is lost, Redis unreachable or the projector"
        " behind; `muster doctor` says more)"
    )
    assert err.count("muster doctor") == 1
    gateway.headers = {"Muster-Stale": "true"}
    assert "(this may be outdated: " in muster(*words)[2]
    gateway.headers = {"Muster-Stale": "true", "Muster-As-Of": "1795529010000"}
    assert "this may be" not in muster(*words)[2]
