"""The commands against a real `muster up`, which they find by its data directory."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import muster
from muster.__main__ import main
from tests.process import ServerProcess
from tests.waiting import until_sync

POOL = "developer_pool"


@pytest.fixture
def system(tmp_path, monkeypatch) -> Iterator[Path]:
    """A running Muster; returns its data directory."""
    monkeypatch.setenv("PYTHONPATH", str(Path(muster.__file__).parent.parent))
    data = tmp_path / "data"
    words = ["up", "--data-dir", str(data), "--port", "0"]
    process = ServerProcess([sys.executable, "-m", "muster", *words], tmp_path / "up.out")
    process.start((data / "running.json").exists)
    monkeypatch.setenv("MUSTER_DATA_DIR", str(data))
    yield data
    process.end([signal.SIGTERM], timeout=20)


@pytest.fixture
def run(system, capsys) -> Callable[..., Any]:
    """Runs a command that must succeed; returns its output: with --json decoded, else as text."""

    def run_command(*words: str) -> Any:
        code = main(words)
        said = capsys.readouterr()
        assert code == 0, said.out + said.err
        return json.loads(said.out) if "--json" in words else said.out

    return run_command


def test_a_day_with_the_command_line(run, capsys):
    """Spawn an agent, show it in every way, end it, read its history, rebuild the views."""
    spawned = run("spawn", POOL, "--project", "demo", "--count", "12", "--label", "team=red")
    ids = [line.split()[0] for line in spawned.splitlines()[1:]]
    assert [line.split()[1] for line in spawned.splitlines()[1:]] == ["running"] * 12

    def shown() -> set[str]:
        """What the views have: an answer waits for them, but not for long."""
        return {row["agent_id"] for row in run("ps", "--label", "team=red", "--json")}

    until_sync(lambda: shown() == set(ids), what="all of them in the views")
    assert run("pools", POOL, "--json")["used_capacity"] == 12
    assert sorted(row["agent_count"] for row in run("workers", "--json")) == [2, 10]

    assert run("terminate", ids[0]).split()[-3:] == [ids[0], "terminated", "requested"]
    until_sync(lambda: shown() == set(ids[1:]), what="the end in the views")
    assert ids[0] not in run("ps")
    events = run("ps", ids[0], "--json")["events"]
    assert [event["type"] for event in events] == [
        "agent.requested",
        "agent.claimed",
        "agent.started",
        "agent.termination_requested",
        "agent.terminated",
    ]
    before = f"{POOL}:{events[3]['seq'] - 1}"
    assert {row["status"] for row in run("ps", "--as-of", before, "--json")} == {"running"}
    assert ids[0] in run("ps", "--as-of", before)
    assert run("pools", POOL, "--as-of", before, "--json")["used_capacity"] == 12
    assert sum(row["agent_count"] for row in run("workers", "--as-of", before, "--json")) == 12
    assert run("tail", "--agent", ids[0][-8:], "-n", "1").rstrip().endswith("requested")
    until_sync(lambda: "agent.terminated" in run("logs", ids[0]), what="the end in the log")
    assert run("logs", ids[0][-8:]) == run("logs", ids[0])
    assert f"agent           {ids[1]}" in run("describe", ids[1][:-1])
    assert run("describe", "developer_pool").count("   active   ") == 3
    assert main(["logs", "develper_pool"]) == 1
    assert "did you mean `developer_pool`?" in capsys.readouterr().err

    registry = registered(run)
    assert "the views are rebuilt" in run("replay")
    assert registered(run) == registry
    assert len(run("ps", "--json")) == 11
    assert run("verify").startswith("equal: ")
    assert main(["spawn", "nowhere", "--project", "demo"]) == 1
    assert capsys.readouterr().err.startswith("muster spawn: no pool `nowhere`; there are: ")
    assert "FAIL" not in run("doctor")

    run("spawn", POOL, "--project", "demo", "--durability", "archived")
    run("terminate", ids[1], "--durability", "archived")
    assert main(["terminate", ids[2], "--durability", "replicated"]) == 1
    assert "0 of 1 replicas follow it" in capsys.readouterr().err


def registered(run: Callable[..., Any]) -> list[dict[str, object]]:
    """All agents as the log has them: without what heartbeats report, which changes."""
    live = {"activity", "last_heartbeat", "last_heartbeat_time"}
    rows = run("ps", "--all", "--json")
    return [{name: row[name] for name in row.keys() - live} for row in rows]
