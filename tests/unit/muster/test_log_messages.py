"""What `muster up` prints of a log's loss: each fact once, in one line."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from muster.up import log_messages
from muster.up.log_messages import LogMessages, follow
from tests.waiting import until

WHY = "missing: the log is gone; the views are at seq 7"


def printed(*lines: dict[str, Any], remedy: str = "run `muster recover`") -> list[str]:
    messages = LogMessages(remedy)
    for line in lines:
        messages.receive(line)
    return messages.pop_texts()


def lost(pool: str, **more: Any) -> dict[str, Any]:
    return {"event": "log.lost", "pool": pool, **more}


def test_a_lost_log_is_reported_once_whichever_role_logs_it() -> None:
    stopped = {"event": "projection.stopped", "pool": "p", "reason": WHY, "lost": True}
    assert printed(stopped, lost("p", acknowledged=2), lost("p", agents=3, worker_id="w")) == [
        f"the log of pool p is lost ({WHY}): commands are refused; run `muster recover`"
    ]


def test_logs_that_are_lost_together_are_one_line() -> None:
    (line,) = printed(*(lost(pool, reason=WHY) for pool in ("", "a", "b", "c", "d")))
    assert line.startswith(
        "the logs of the catalogue, pool a, pool b and 2 more are lost (missing): commands"
    )


def test_views_that_stopped_for_another_reason_are_no_loss() -> None:
    assert (
        printed({"event": "projection.stopped", "pool": "p", "reason": "gap", "lost": False}) == []
    )


def test_what_happens_to_the_database_of_the_views_is_printed_with_file_and_cause() -> None:
    unavailable = {"event": "projector.unavailable", "source": "database", "reason": "d: full"}
    resumed = {"event": "projector.resumed"}
    restored = {"event": "views.file_restored", "path": "/v.db", "was": "damaged", "aside": "/a"}
    assert printed(unavailable, resumed, restored, resumed) == [
        "the views cannot be written: d: full; the projector tries again",
        "the views are written again",
        "/v.db was damaged; it is restored with its content; what was there is /a",
    ]
    replaced = {"event": "views.file_replaced", "reason": "/v.db is a folder", "aside": "/a"}
    assert printed(replaced) == ["/v.db is a folder; it is built again; what was there is /a"]
    assert printed({**unavailable, "source": "redis"}, resumed) == []


def test_a_recovery_by_itself_is_followed_to_its_end() -> None:
    doing = [{"event": "projector.recovering", "stage": what, "pool": "p"} for what in "ab"]
    read = {"event": "log.recovered", "pool": "p", "generation": 2}
    done = {**read, "lost": 0}
    texts = printed(*doing, lost("p"), read, *doing, done, remedy="it is recovered by itself")
    assert texts == [
        "the log of pool p is lost: commands are refused; it is recovered by itself",
        "recovering what is lost: agents run again once every lease has lapsed",
        "the log of pool p was recovered",
    ]


def test_a_log_that_returns_without_a_recovery_is_reported_by_its_views() -> None:
    resumed = {"event": "projection.resumed", "pool": "p"}
    assert printed(resumed) == []
    assert printed(lost("p"), resumed)[1:] == ["the log of pool p is served again"]
    done = {"event": "log.recovered", "pool": "p", "generation": 2}
    assert printed(lost("p"), done, resumed)[1:] == ["the log of pool p was recovered"]


def test_redis_unreachable_and_reachable_is_printed_with_its_reason() -> None:
    unreachable, reachable = printed(
        {"event": "gateway.redis_unreachable", "reason": "MISCONF no space\nleft on device"},
        {"event": "gateway.redis_reachable", "seconds": 3.2},
    )
    assert unreachable.startswith(
        "Redis is unreachable (MISCONF no space left on device): commands are refused"
    )
    assert reachable == "Redis is reachable again after 3.2 s"


def test_a_second_loss_is_reported_like_the_first() -> None:
    messages = LogMessages("recover")
    for generation in (2, 3):
        messages.receive(lost("p"))
        (line,) = messages.pop_texts()
        assert line.startswith("the log of pool p is lost")
        messages.receive({"event": "log.recovered", "pool": "p", "generation": generation})
        assert messages.pop_texts() == ["the log of pool p was recovered"]


def test_a_lost_command_is_named_once_though_two_roles_name_it() -> None:
    one = {"event": "command.lost", "pool": "", "kind": "create_pool", "agent_id": "p"}
    (line,) = printed(one, one)
    assert line.startswith("1 command could not be saved: create_pool p;")
    many = [{**one, "kind": "spawn", "agent_id": name} for name in "abcde"]
    (line,) = printed(*many)
    assert line.startswith("5 commands could not be saved: spawn a, spawn b, spawn c and 2 more;")


async def test_only_what_is_logged_from_now_on_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a log that is rotated meanwhile, and of one that is not there yet."""
    monkeypatch.setattr(log_messages, "POLL_SECONDS", 0.01)
    gateway, projector = tmp_path / "gateway.jsonl", tmp_path / "projector.jsonl"
    gateway.write_text(json.dumps(lost("old")) + "\n")
    lines: list[str] = []
    following = asyncio.create_task(
        follow([gateway, projector], LogMessages("recover"), lines.append)
    )
    await asyncio.sleep(0.05)
    with gateway.open("a") as log:
        log.write(json.dumps(lost("a")) + "\n")
    gateway.rename(tmp_path / "gateway.jsonl.1")
    gateway.write_text(json.dumps({"event": "log.recovered", "pool": "a", "generation": 2}) + "\n")
    await until(lambda: len(lines) == 2)
    projector.write_text("no JSON\n" + json.dumps(lost("b")) + "\n")
    await until(lambda: len(lines) == 3)
    following.cancel()
    assert ["old" in line for line in lines] == [False] * 3


def test_changed_code_is_reported_with_why_it_is_not_used() -> None:
    error = "importing acme failed\n  line 3\nNameError: x"
    changed = {"event": "code.reloaded", "files": ["a.py", "b.py"], "workers": 1}
    broken = {"event": "code.not_reloaded", "files": ["a.py"], "error": error}
    assert printed(changed) == ["a.py, b.py changed: 1 worker is replaced"]
    (text,) = printed(broken)
    assert text.startswith("a.py changed, but cannot be imported; the workers go on with")
    assert text.endswith(f"\n{error}")


def test_pools_whose_agents_cannot_be_started_are_named_once() -> None:
    messages = LogMessages("recover")
    why = "import-failed: role 'b' (acme:B): ImportError: no"
    for line in (
        {"event": "pool.role_not_declared", "pool": "one", "role": "a", "declared": []},
        {"event": "pool.blocked", "pool": "one", "reason": "role-not-declared: …"},
        {"event": "pool.blocked", "pool": "two", "reason": "no host has room for another worker"},
    ):
        messages.receive(line)
    why_not = "role 'a' is not declared; `muster doctor` says which are"
    assert messages.pop_texts() == [f"no agents of pool one can be started here: {why_not}"]
    for _ in range(2):
        messages.receive({"event": "pool.blocked", "pool": "two", "reason": why})
    assert messages.pop_texts() == [f"no agents of pool two can be started here: {why}"]
    assert messages.pop_texts() == []
