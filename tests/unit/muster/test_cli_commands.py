"""`muster pools` and `workers`; and what all commands have in common."""

import importlib
import json
import pkgutil
import subprocess
import sys
from typing import Any

import pytest

from muster import cli
from muster.__main__ import main
from muster.cli.main import COMMANDS
from tests.unit.muster.gateway_stub import AGENT, API, OTHER, POOL, Request


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
    assert (code, gateway.requests[0].call) == (0, "GET /pools/night")
    assert (json.loads(out) == POOL) if "--json" in words else "max_workers" in out


def test_a_pool_is_paused_with_a_reason_and_resumed(gateway, muster):
    gateway.answers |= {"POST /pools/night/pause": POOL, "POST /pools/night/resume": POOL}
    assert muster("pools", "pause", "night", "--reason", "the database moves")[0] == 0
    assert muster("pools", "resume", "night")[0] == 0
    [pause, resume] = gateway.requests
    assert (pause.call, pause.body) == ("POST /pools/night/pause", {"reason": "the database moves"})
    assert resume.call == "POST /pools/night/resume"
    with pytest.raises(SystemExit):
        muster("pools", "pause", "night")


def test_pools_are_created_changed_and_deleted(gateway, muster):
    gateway.answers |= {"POST /pools": (201, POOL), "PATCH /pools/night": POOL}
    gateway.answers["DELETE /pools/night"] = (202, {"pool_name": "night", "status": "deleting"})
    create = "create night --role developer --set max_workers=4 --set lease_seconds=2.5"
    assert muster("pools", *create.split())[0] == 0
    assert muster("pools", "set", "night", "max_workers=8")[0] == 0
    assert "its agents are ending" in muster("pools", "delete", "night", "--force")[1]
    created, changed, deleted = gateway.requests
    config = {"max_workers": 4, "lease_seconds": 2.5}
    assert created.body == {"pool_name": "night", "role_type": "developer", "config": config}
    assert changed.body == {"config": {"max_workers": 8}}
    assert deleted.query == {"force": "true"}


def test_shadow_policies_are_read_from_files_and_sent_by_name(gateway, muster, tmp_path):
    """A path means nothing to those who run the pool."""
    gateway.answers |= {"PATCH /pools/night": POOL}
    (tmp_path / "calm.toml").write_text("buffer = 5\ndown = { window_seconds = 9 }")
    (tmp_path / "bare.toml").write_text("")
    calm = {"buffer": 5, "down": {"window_seconds": 9}}
    for value in (f"{tmp_path}/calm.toml", f'["{tmp_path}/calm.toml", "{tmp_path}/bare.toml"]'):
        assert muster("pools", "set", "night", f"shadow={value}")[0] == 0
    assert muster("pools", "set", "night", 'shadow={"inline": {}}')[0] == 0
    assert muster("pools", "set", "night", "shadow=null")[0] == 0
    sent = [request.body["config"]["shadow"] for request in gateway.requests]
    assert sent == [{"calm": calm}, {"calm": calm, "bare": {}}, {"inline": {}}, None]
    code, _, err = muster("pools", "set", "night", "shadow=none.toml")
    assert (code, err) == (2, "muster pools set: none.toml: No such file or directory\n")


def test_workers_are_drained(gateway, muster):
    one, two = AGENT, OTHER  # ids have one form
    gateway.answers |= {
        f"POST /workers/{one}/drain": (202, {"worker_id": one, "agent_count": 3}),
        f"POST /workers/{two}/drain": {"worker_id": two, "ended_at": 5},
    }
    code, out, _ = muster("drain", one, two, "--reason", "a new kernel")
    assert (code, [request.body for request in gateway.requests]) == (
        0, [{"reason": "a new kernel"}] * 2,
    )  # fmt: skip
    assert out.splitlines() == [
        f"worker {one} drains, and releases 3 agents",
        f"worker {two} has ended",
    ]


def test_workers_are_drained_at_a_deadline(gateway, muster):
    worker = {"worker_id": AGENT, "status": "active", "agent_count": 2, "drain_at": 86_400_000}
    gateway.answers[f"POST /workers/{AGENT}/drain"] = (202, worker)
    code, out, _ = muster("drain", AGENT, "--deadline", "1m30s")
    assert (code, gateway.requests[0].body) == (0, {"deadline_seconds": 90.0})
    assert out.endswith(", and has 2 agents\n")
    code, _, err = muster("drain", AGENT, "--deadline", "soon")
    assert code == 2
    assert "90s, 10m or 1h30m" in err


def test_workers_are_cordoned_and_uncordoned(gateway, muster):
    worker = {"worker_id": AGENT, "status": "active", "agent_count": 1}
    gateway.answers |= {
        f"POST /workers/{AGENT}/cordon": {**worker, "cordoned": "its memory grows"},
        f"POST /workers/{AGENT}/uncordon": worker,
    }
    code, out, _ = muster("cordon", AGENT, "--reason", "its memory grows")
    assert (code, out) == (0, f"worker {AGENT} is cordoned, and has 1 agent\n")
    code, out, _ = muster("uncordon", AGENT)
    assert (code, out) == (0, f"worker {AGENT} is not cordoned\n")
    assert [request.body for request in gateway.requests] == [{"reason": "its memory grows"}, {}]


def test_workers_of_a_pool_are_replaced_and_the_exit_code_says_whether(gateway, muster):
    running = {"replacement_id": "r", "status": "running", "reason": "t", "actor": "http",
               "epoch": 7, "workers": 2, "max_unavailable": 2, "started_at": 1}  # fmt: skip
    stopped = {**running, "status": "stopped", "detail": "they fail"}
    gateway.answers |= {
        "POST /pools/night/replace": (202, {**POOL, "replacement": running}),
        "POST /pools/night/replace/cancel": {**POOL, "replacement": stopped},
        "GET /pools/night": {**POOL, "replacement": stopped},
    }
    code, out, _ = muster("replace", "night", "--max-unavailable", "2", "--deadline", "1m")
    assert (code, "they fail" in out) == (1, True)
    body = {"max_unavailable": 2, "deadline_seconds": 60.0}
    assert (gateway.requests[0].body, gateway.requests[0].call) == (
        body, "POST /pools/night/replace",
    )  # fmt: skip
    assert muster("replace", "night", "--no-wait")[0] == 0
    assert muster("replace", "night", "--cancel")[0] == 0
    finished = {**running, "status": "finished"}
    gateway.answers["GET /pools/night"] = {**POOL, "replacement": finished}
    code, out, _ = muster("replace", "night", "--follow")
    assert (code, out.startswith("the workers of pool night were replaced at ")) == (0, True)


def test_workers_are_listed_with_their_load(gateway, muster):
    worker = {"worker_id": "w1", "pool_name": "night", "host": "h", "pid": 7, "status": "active",
              "agent_count": 3, "max_agents": 10, "loop_lag_ms": 0.5}  # fmt: skip
    other = {**worker, "worker_id": "w2", "pool_name": "day"}

    def page(request: Request) -> dict[str, Any]:
        if request.query.get("pool_name") or request.query.get("cursor"):
            return {"workers": [worker], "more": 1}
        return {"workers": [other], "next": f"{API}/workers?cursor=abc"}

    gateway.answers["GET /workers"] = page
    _, out, _ = muster("workers", "--pool", "night")
    assert out.splitlines()[1].split()[:6] == ["w1", "night", "h", "7", "active", "3/10"]
    assert [found["worker_id"] for found in json.loads(muster("workers", "--json")[1])] == [
        "w2",
        "w1",
    ]


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
    commands = {one.name for one in found if hasattr(importlib.import_module(one.name), "add")}
    registered = [
        f"muster.cli.{package}.{name}" for package in COMMANDS for name in COMMANDS[package]
    ]
    assert commands == set(registered)


def test_a_command_imports_no_more_than_it_needs():
    """It would start slowly otherwise."""
    check = (
        "import sys; from muster.__main__ import main; main(['ps', '--url', 'http://127.0.0.1:1']);"
        "print({'asyncio', 'redis', 'rich', 'sqlalchemy', 'structlog'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], check=True, timeout=60, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("words", "printed"),
    [(["help"], "commands:"), (["help", "ps"], "usage: muster ps"), (["version"], "muster ")],
    ids=["help", "of a command", "version"],
)
def test_help_and_version_are_also_words(capsys, words, printed):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert printed in capsys.readouterr().out
