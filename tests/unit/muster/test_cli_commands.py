"""The commands that call the gateway, against a stub with answers by the test."""

import importlib
import json
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from muster import cli
from muster.__main__ import main
from muster.cli.main import COMMANDS

AGENT = "01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e"
OTHER = "01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3f"
ERROR = {"type": "ValueError", "message": "no\nluck", "traceback": "Traceback\nValueError: no"}
API = "/api/v1/agents"


def agent(agent_id: str = AGENT, **fields: Any) -> dict[str, Any]:
    known = {"pool_name": "night", "role_type": "developer", "project_id": "demo", "incarnation": 1}
    return {"agent_id": agent_id, "status": "running", "created_at": 1, **known, **fields}


POOL = {
    "pool_name": "night",
    "role_type": "developer",
    "status": "active",
    "process_count": 2,
    "total_capacity": 20,
    "used_capacity": 15,
    "agent_count": 15,
    "utilization": 0.75,
    "config": {"max_workers": 4, "lease_seconds": 10.0},
}


class Asked:
    """A request as it reached the gateway."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.method, self.path, self.headers = handler.command, parts.path, handler.headers
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        length = int(handler.headers.get("Content-Length") or 0)
        self.body = json.loads(handler.rfile.read(length)) if length else None

    @property
    def call(self) -> str:
        return f"{self.method} {self.path.removeprefix(API)}"


Answers = dict[str, Any]


class Stub:
    """A gateway: `answers` by call are a body, (status, body) or a function of the request."""

    def __init__(self) -> None:
        self.answers: Answers = {"GET /pools/night": POOL}
        self.sent: dict[str, str] = {}
        """Headers of every answer."""
        self.asked: list[Asked] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = Asked(self)
                stub.asked.append(asked)
                status, body = stub.answer(asked)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                for name, value in stub.sent.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815  (the standard library's names)

            def log_message(self, *_: object) -> None:
                """Tests are quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, asked: Asked) -> tuple[int, Any]:
        found = self.answers.get(asked.call, (404, problem(404, "there is nothing here")))
        found = found(asked) if callable(found) else found
        return found if isinstance(found, tuple) else (200, found)


def problem(status: int, detail: str, **fields: Any) -> dict[str, Any]:
    return {"type": "x", "title": "t", "status": status, "detail": detail, **fields}


@pytest.fixture
def gateway(monkeypatch) -> Iterator[Stub]:
    stub = Stub()
    monkeypatch.setenv("MUSTER_URL", stub.url)
    thread = threading.Thread(target=stub.server.serve_forever, args=(0.01,))
    thread.start()
    yield stub
    stub.server.shutdown()
    thread.join()
    stub.server.server_close()


@pytest.fixture
def muster(capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; returns exit code, standard output and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


# ---- spawn -----------------------------------------------------------------------------------


def test_a_spawn_sends_only_set_fields_and_the_role_of_the_pool(gateway, muster):
    gateway.answers["POST /spawn"] = agent(process_id="w1")
    code, out, _ = muster("spawn", "night", "--project", "demo")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["AGENT", "STATUS", "WORKER", "REASON"],
        [AGENT, "running", "w1", "-"],
    ]
    asked = gateway.asked[-1]
    assert asked.body == {"project_id": "demo", "role_type": "developer", "pool_name": "night"}
    assert asked.headers["Prefer"] == "wait=5"
    assert len(asked.headers["Idempotency-Key"]) == 36


def test_all_flags_of_a_spawn_are_sent(gateway, muster):
    gateway.answers["POST /spawn"] = (202, agent(status="pending"))
    words = "--role tester --max-idle-time never --heartbeat-interval 20 --no-wait --key k1"
    more = ("--input", '{"a": 1}', "--label", "team=red", "--label", "x=", "--pending-timeout", "9")
    code, out, _ = muster("spawn", "night", "--project", "demo", *words.split(), *more, "--json")
    assert (code, json.loads(out)["status"]) == (0, "pending")
    (asked,) = gateway.asked
    assert asked.body == {
        "project_id": "demo",
        "role_type": "tester",
        "pool_name": "night",
        "heartbeat_interval": 20,
        "max_idle_time": None,
        "pending_timeout": 9,
        "input": {"a": 1},
        "labels": {"team": "red", "x": ""},
    }
    assert (asked.headers["Prefer"], asked.headers["Idempotency-Key"]) == ("respond-async", "k1")


def test_several_spawns_have_a_key_each_and_are_sent_at_once(gateway, muster):
    together = threading.Barrier(4, timeout=10)

    def answer(asked: Asked) -> dict[str, Any]:
        together.wait()  # breaks unless four are asked for before the first is answered
        return agent(f"{AGENT[:-1]}{asked.headers['Idempotency-Key'][-1]}")

    gateway.answers["POST /spawn"] = answer
    words = ("spawn", "night", "--project", "demo", "--count", "4", "--key", "k", "--json")
    code, out, _ = muster(*words)
    ids = [json.loads(line)["agent_id"] for line in out.splitlines()]
    assert (code, ids) == (0, [f"{AGENT[:-1]}{n}" for n in "1234"])


def test_a_level_that_was_not_reached_is_reported_and_the_agents_shown(gateway, muster):
    """They are accepted, so they are no failures; a script can check the exit code."""
    gateway.answers["POST /spawn"] = lambda _: (202, agent())
    gateway.sent["Muster-Durability-Pending"] = 'replicated; reason="0 of 1 replicas have it"'
    words = ("spawn", "night", "--project", "demo", "--role", "r", "--durability", "replicated")
    code, out, err = muster(*words, "--count", "3")
    assert code == 1
    assert out.count(AGENT) == 3
    said = "accepted, but not yet replicated: 0 of 1 replicas have it (3 times)"
    assert err == f"muster spawn: {said}\n"
    assert [asked.headers["Muster-Durability"] for asked in gateway.asked] == ["replicated"] * 3


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
    def hang_up(_: Asked) -> None:
        raise ConnectionAbortedError

    gateway.answers["POST /spawn"] = hang_up
    gateway.server.handle_error = lambda *_: None
    code, _, err = muster("spawn", "night", "--project", "demo", "--key", "order-1")
    assert code == 3
    assert "accepted the request, but" in err
    assert "--key order-1" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--input", "{"), "--input: this is not JSON"),
        (("--input", "[]"), "--input: expected a JSON object"),
        (("--label", "x"), "--label: 'x' is not of the form name=value"),
        (("--count", "0"), "--count: 0 is not between 1 and"),
        (("--wait", "long"), "--wait: 'long' is not a number of seconds"),
        (("--max-idle-time", "x"), "--max-idle-time: 'x' is not a number"),
        (("--key", "a\nb"), "--key: expected printable ASCII"),
    ],
)
def test_bad_input_is_one_line_and_sends_no_request(gateway, muster, words, said):
    code, _, err = muster("spawn", "night", "--project", "demo", *words)
    assert (code, err.count("\n"), gateway.asked) == (2, 1, [])
    assert err.startswith(f"muster spawn: {said}")


# ---- refusals --------------------------------------------------------------------------------


def test_a_refusal_names_the_fields(gateway, muster):
    errors = [{"field": "labels.x", "message": "too long"}, {"field": "input", "message": "input"}]
    gateway.answers["POST /spawn"] = (400, problem(400, "not valid", errors=errors))
    _, _, err = muster("spawn", "night", "--project", "demo")
    assert err == "muster spawn: not valid\n  labels.x: too long\n  input\n"


def test_a_refusal_about_one_field_is_one_line(gateway, muster):
    errors = [{"field": "pool_name", "message": "there is none"}]
    answer = problem(404, "there is none", errors=errors)
    gateway.answers["GET /pools/night"] = (404, answer)
    assert muster("pools", "night")[2] == "muster pools show: pool_name: there is none\n"


def test_a_gateway_that_does_not_answer_is_reported_with_its_address(muster):
    code, _, err = muster("ps", "--url", "http://127.0.0.1:1")
    assert code == 3
    assert "nothing answers at http://127.0.0.1:1; is `muster up` running?" in err


def test_the_token_is_sent_and_never_shown(gateway, muster, monkeypatch):
    monkeypatch.setenv("MUSTER_API_TOKEN", "very-secret")
    gateway.answers["GET /pools"] = (401, problem(401, "no"))
    code, out, err = muster("pools")
    assert (code, gateway.asked[0].headers["Authorization"]) == (1, "Bearer very-secret")
    assert "MUSTER_API_TOKEN" in err
    assert "very-secret" not in out + err


def test_a_page_of_a_proxy_is_reported_by_its_status(gateway, muster):
    gateway.answers["GET /pools"] = (504, b"<html>Gateway Timeout</html>")
    assert muster("pools")[::2] == (1, "muster pools: HTTP status 504\n")


def test_an_unexpected_answer_is_reported(gateway, muster):
    gateway.answers["GET /pools"] = b"hello"
    assert "unexpected answer from the gateway" in muster("pools")[2]


# ---- ps --------------------------------------------------------------------------------------


def test_ps_follows_pages_and_shortens_errors(gateway, muster):
    failing = agent(OTHER, status="restarting", reason="crashed", last_error=ERROR)

    def page(asked: Asked) -> dict[str, Any]:
        first = "cursor" not in asked.query
        link = f"{API}?pool_name=night&limit=1000&cursor=abc" if first else None
        return {"agents": [agent() if first else failing], "next": link}

    gateway.answers["GET "] = page
    code, out, _ = muster("ps", "--pool", "night", "--label", "team=red")
    assert (code, gateway.asked[0].query["label"]) == (0, "team:red")
    heading, one, two = (line.split() for line in out.splitlines())
    assert " ".join(heading) == "AGENT POOL ROLE PROJECT STATUS ACTIVITY WORKER INC AGE REASON"
    assert one[:5] == [AGENT, "night", "developer", "demo", "running"]
    assert " ".join(two[9:]) == "crashed (ValueError: no luck)"
    assert [asked.query.get("cursor") for asked in gateway.asked] == [None, "abc"]


def test_ps_shows_no_more_than_the_limit(gateway, muster):
    gateway.answers["GET "] = {"agents": [agent(), agent(OTHER)], "next": f"{API}?cursor=x"}
    code, out, _ = muster("ps", "--limit", "1", "--json")
    assert (code, [found["agent_id"] for found in json.loads(out)]) == (0, [AGENT])
    assert gateway.asked[0].query["limit"] == "1"


def test_ps_includes_ended_agents_where_their_status_is_requested(gateway, muster):
    gateway.answers["GET "] = {"agents": [], "next": None}
    assert muster("ps", "--status", "failed")[1] == ""
    assert muster("ps")[2] == "no agents\n"
    assert [asked.query.get("include_ended") for asked in gateway.asked] == ["true", None]


def lived(*kinds: str) -> bytes:
    """The events of one agent, as they are streamed."""
    events = [{"pool": "night", "stream_id": f"{n}-0", "type": kind, "seq": n, "ts": n,
               "incarnation": 1, "worker_id": "", "subject": AGENT, "data": {}}
              for n, kind in enumerate(kinds, 1)]  # fmt: skip
    return "".join(f"id: x\ndata: {json.dumps(event)}\n\n" for event in events).encode()


def fact(out: str, name: str) -> str:
    """What is said of an agent under a name; empty where nothing is."""
    lines = [line for line in out.splitlines() if line.startswith(f"{name:<16}")]
    return lines[0][16:] if lines else ""


def test_worker_deaths_are_counted_from_the_history_and_isolation_is_shown_while_it_lasts(
    gateway, muster
):
    """Of those that make an agent suspect two at most are remembered; later ones are failures."""
    life = ["agent.requested", *["agent.lost"] * 5, "agent.failed"]
    gateway.answers["GET /api/v1/events"] = lived(*life)
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
    aside = {"id": name, "source": "agent", "subject": AGENT, "reason": "its hash is gone"}
    gateway.answers["GET /api/v1/parked"] = {"parked": [{**aside, "subject": OTHER}, aside]}
    gateway.answers[f"GET /{AGENT}"] = agent()
    out = muster("ps", AGENT)[1]
    assert fact(out, "parked") == f"its hash is gone (muster parked retry|drop {name})"
    assert json.loads(muster("ps", AGENT, "--json")[1])["parked"]["id"] == name
    assert fact(muster("ps", AGENT, "--as-of", "-1h")[1], "parked") == ""
    gateway.answers["GET /api/v1/parked"] = {"parked": []}
    assert json.loads(muster("ps", AGENT, "--json")[1])["parked"] is None


@pytest.mark.parametrize(
    ("source", "action", "said"),
    [
        ("heartbeat", "retry", "was removed"),
        ("command", "drop", "was removed"),
        ("agent", "retry", "was restored"),
        ("agent", "drop", "was ended"),
    ],
)
def test_retry_and_drop_print_what_they_did(gateway, muster, source, action, said):
    call = "POST /api/v1/parked/x/retry" if action == "retry" else "DELETE /api/v1/parked/x"
    gateway.answers[call] = {"id": "x", "source": source}
    assert muster("parked", action, "x")[:2] == (0, f"x {said}\n")


def test_one_agent_is_shown_with_its_traceback_and_history(gateway, muster):
    gateway.answers[f"GET /{AGENT}"] = agent(version=2, last_error=ERROR, labels={"team": "red"})
    events = [{"pool": "night", "stream_id": f"{n}-0", "type": kind, "seq": n, "ts": n,
               "incarnation": 1, "worker_id": "", "subject": AGENT, "data": data}
              for n, kind, data in ((1, "agent.requested", {"project_id": "demo"}),
                                    (2, "agent.claimed", {}))]  # fmt: skip
    stream = "".join(f"id: x\ndata: {json.dumps(event)}\n\n" for event in events)
    gateway.answers["GET /api/v1/events"] = f"retry: 2000\n\n{stream}".encode()
    code, out, err = muster("ps", AGENT.upper())
    assert (code, err) == (0, "")
    assert "labels          team=red\n" in out
    assert "last error:\n  Traceback\n  ValueError: no\n" in out
    assert [line.split()[-4:] for line in out.splitlines()[-2:]] == [
        ["night:1", "agent.requested", AGENT, "project_id=demo"],
        line_end(out, 1),
    ]
    assert gateway.asked[1].query == {"pool": "night", "agent": AGENT, "after": "0"}
    document = json.loads(muster("ps", AGENT, "--json")[1])
    assert [event["type"] for event in document["events"]] == ["agent.requested", "agent.claimed"]


def line_end(text: str, words: int) -> list[str]:
    """The last words of the last line but its time, which depends on where the test runs."""
    found = text.splitlines()[-1].split()[-4:]
    assert found[-3:] == ["night:2", "agent.claimed", AGENT]
    return found


# ---- the rest --------------------------------------------------------------------------------


def test_terminate_finds_the_pool_and_prints_every_result(gateway, muster):
    gateway.answers[f"GET /{AGENT}"] = agent()
    gateway.answers["POST /terminate"] = agent(status="terminated", reason="requested")
    code, out, err = muster("terminate", AGENT, OTHER, "--now")
    assert code == 1
    assert out.splitlines()[1].split() == [AGENT, "terminated", "requested"]
    assert err == f"muster terminate: {OTHER}: there is nothing here\n"
    (asked,) = [asked for asked in gateway.asked if asked.method == "POST"]
    assert asked.body == {"pool_name": "night", "agent_id": AGENT, "graceful": False}


def test_terminate_refuses_an_invalid_id(gateway, muster):
    assert muster("terminate", AGENT, "7")[0] == 2
    assert gateway.asked == []


def test_pools_show_how_full_they_are(gateway, muster):
    gateway.answers["GET /pools"] = {"pools": [POOL]}
    code, out, _ = muster("pools")
    assert (code, out.splitlines()[1].split()) == (
        0,
        ["night", "developer", "active", "15", "0", "2", "15/20", "75%"],
    )
    assert json.loads(muster("pools", "--json")[1]) == [POOL]


@pytest.mark.parametrize("words", [("night", "--json"), ("--json", "night"), ("show", "night")])
def test_a_pool_is_shown_by_its_name_without_an_action(gateway, muster, words):
    code, out, _ = muster("pools", *words)
    assert (code, gateway.asked[0].call) == (0, "GET /pools/night")
    assert (json.loads(out) == POOL) if "--json" in words else "max_workers" in out


def test_pools_are_created_changed_and_deleted(gateway, muster):
    gateway.answers |= {"POST /pools": (201, POOL), "PATCH /pools/night": POOL}
    gateway.answers["DELETE /pools/night"] = (202, {"pool_name": "night", "status": "deleting"})
    create = "create night --role developer --set max_workers=4 --set lease_seconds=2.5"
    assert muster("pools", *create.split())[0] == 0
    assert muster("pools", "set", "night", "max_workers=8")[0] == 0
    assert "its agents are ending" in muster("pools", "delete", "night", "--force")[1]
    created, changed, deleted = gateway.asked
    config = {"max_workers": 4, "lease_seconds": 2.5}
    assert created.body == {"pool_name": "night", "role_type": "developer", "config": config}
    assert changed.body == {"config": {"max_workers": 8}}
    assert deleted.query == {"force": "true"}


def test_workers_are_listed_with_their_load(gateway, muster):
    worker = {"worker_id": "w1", "pool_name": "night", "host": "h", "pid": 7, "status": "active",
              "agent_count": 3, "max_agents": 10, "loop_lag_ms": 0.5}  # fmt: skip
    other = {**worker, "worker_id": "w2", "pool_name": "day"}

    def page(asked: Asked) -> dict[str, Any]:
        if asked.query.get("pool_name") or asked.query.get("cursor"):
            return {"workers": [worker], "more": 1}
        return {"workers": [other], "next": f"{API}/workers?cursor=abc"}

    gateway.answers["GET /workers"] = page
    _, out, _ = muster("workers", "--pool", "night")
    assert out.splitlines()[1].split()[:6] == ["w1", "night", "h", "7", "active", "3/10"]
    assert [found["worker_id"] for found in json.loads(muster("workers", "--json")[1])] == [
        "w2",
        "w1",
    ]


def test_a_refused_change_of_a_pool_names_the_setting(gateway, muster):
    errors = [{"field": "config.max_workers", "message": "config.max_workers: Expected `int`"}]
    answer = problem(400, "config.max_workers: Expected `int`", errors=errors)
    gateway.answers["PATCH /pools/night"] = (400, answer)
    code, _, err = muster("pools", "set", "night", "max_workers=many")
    assert (code, err) == (1, "muster pools set: config.max_workers: Expected `int`\n")


def test_every_command_has_a_help_with_examples(capsys):
    names = ["spawn", "terminate", "ps", "pools", "workers", "logs", "tail", "replay", "doctor"]
    names.append("verify")
    actions = [["pools", action] for action in ("show", "create", "set", "delete")]
    for words in [[name] for name in names] + actions:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        assert ended.value.code == 0
        assert f"examples:\n  muster {words[0]}" in capsys.readouterr().out


def test_every_module_with_a_command_is_registered():
    found = pkgutil.walk_packages(cli.__path__, "muster.cli.")
    modules = [importlib.import_module(one.name) for one in found]
    assert {module for module in modules if hasattr(module, "add")} == set(COMMANDS)


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
    gateway.sent = {"Muster-Stale": "true", "Muster-Age-Ms": "61001"}
    code, _, err = muster(*words)
    assert code == 0
    assert err.splitlines()[0] == (
        "(this may be up to 1m02s old: the log is lost, Redis unreachable or the projector"
        " behind; `muster doctor` says more)"
    )
    assert err.count("muster doctor") == 1
    gateway.sent = {"Muster-Stale": "true"}
    assert "(this may be outdated: " in muster(*words)[2]
    gateway.sent = {"Muster-Stale": "true", "Muster-As-Of": "1795529010000"}
    assert "this may be" not in muster(*words)[2]


# ---- as it was -------------------------------------------------------------------------------


def test_a_point_in_time_is_written_as_people_do_and_sent_in_ms(gateway, muster):
    """Ages are relative to that time, which is printed."""
    spawned = [agent(created_at=1_795_529_000_000)]
    gateway.answers["GET "] = lambda asked: {
        "agents": [] if asked.query["as_of"] == "night:0" else spawned,
        "next": None,
    }
    gateway.sent = {"Muster-As-Of": "1795529010000,night:1:7"}
    _, out, err = muster("ps", "--as-of", "2026-11-24T14:03:30Z")
    assert gateway.asked[0].query["as_of"] == "1795529010000"
    assert out.splitlines()[1].split()[-2] == "10s"
    assert err.startswith("as of ")
    muster("ps", "--as-of", "-15m")
    asked_ms = int(gateway.asked[1].query["as_of"])
    assert abs(time.time() * 1000 - 900_000 - asked_ms) < 60_000
    for position in ("night:7", "night:1:7", ":3", "night:7,day:2"):
        muster("ps", f"--as-of={position}")
        assert gateway.asked[-1].query["as_of"] == position
    for said, meant in (
        ("catalogue:3", ":3"),
        ("night:7,catalogue:1:3", "night:7,:1:3"),
        ("my-catalogue:3", "my-catalogue:3"),
    ):
        muster("ps", f"--as-of={said}")
        assert gateway.asked[-1].query["as_of"] == meant
    gateway.sent = {"Muster-As-Of": "0,night:0"}
    assert muster("ps", "--as-of", "night:0")[2] == "as of before the first event\nno agents\n"
    muster("ps", "--as-of", "14:03")
    clock = time.localtime(int(gateway.asked[-1].query["as_of"]) / 1000)
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
    assert gateway.asked[0].call == call
    assert abs(time.time() * 1000 - 3_600_000 - int(gateway.asked[0].query["as_of"])) < 60_000


def test_the_past_cannot_be_watched_and_invalid_times_are_refused(gateway, muster):
    assert muster("ps", "--watch", "--as-of", "-1h")[0] == 2
    code, _, err = muster("ps", "--as-of", "yesterday")
    assert (code, err.partition(":")[0]) == (2, "muster ps")
    assert "or 2026-11-24T14:03, nor an event (POOL:SEQ" in err
    assert gateway.asked == []


@pytest.mark.parametrize("words", [["verify"], ["recover", "--dry-run"], ["recover"], ["replay"],
                                   ["tail"]], ids=" ".join)  # fmt: skip
def test_a_server_that_is_not_redis_is_reported_as_such(words, gateway, muster, tmp_path):
    """An address that leads to an HTTP server."""
    views = tmp_path / "views.db"
    views.touch()
    url = gateway.url.replace("http", "redis")
    code, out, err = muster(*words, "--redis-url", url, "--database-url", f"sqlite:///{views}")
    assert (code, out) == (3, "")
    said = [line for line in err.splitlines() if line != "checking the logs"]
    assert [line.partition(" is no Redis: ")[0] for line in said] == [
        f"muster {words[0]}: the server"
    ]
