"""What the terminal of `muster up` says of a log's loss, each thing once and in one line."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from muster.up import log_messages
from muster.up.log_messages import LogMessages, follow
from tests.waiting import until

WHY = "missing: the log is gone; the views are at seq 7"


def heard(*lines: dict[str, Any], remedy: str = "run `muster recover`") -> list[str]:
    news = LogMessages(remedy)
    for line in lines:
        news.receive(line)
    return news.pop_texts()


def lost(pool: str, **more: Any) -> dict[str, Any]:
    return {"event": "log.lost", "pool": pool, **more}


def test_a_lost_log_is_told_once_whoever_says_so() -> None:
    stopped = {"event": "projection.stopped", "pool": "p", "reason": WHY, "lost": True}
    assert heard(stopped, lost("p", acknowledged=2), lost("p", agents=3, worker_id="w")) == [
        f"the log of pool p is lost ({WHY}): commands are refused; run `muster recover`"
    ]


def test_logs_that_are_lost_together_are_one_line() -> None:
    (line,) = heard(*(lost(pool, reason=WHY) for pool in ("", "a", "b", "c", "d")))
    assert line.startswith(
        "the logs of the catalogue, pool a, pool b and 2 more are lost (missing): commands"
    )


def test_views_that_stand_still_for_another_reason_are_no_loss() -> None:
    assert heard({"event": "projection.stopped", "pool": "p", "reason": "gap", "lost": False}) == []


def test_a_recovery_by_itself_is_followed_to_its_end() -> None:
    doing = [{"event": "projector.recovering", "doing": what, "pool": "p"} for what in "ab"]
    read = {"event": "log.recovered", "pool": "p", "generation": 2}
    done = {**read, "unsaved": 0}
    told = heard(*doing, lost("p"), read, *doing, done, remedy="it is recovered by itself")
    assert told == [
        "the log of pool p is lost: commands are refused; it is recovered by itself",
        "recovering what is lost: what ran runs again once every lease has lapsed",
        "the log of pool p was recovered",
    ]


def test_a_log_that_comes_back_unseen_is_told_of_by_its_views() -> None:
    resumed = {"event": "projection.resumed", "pool": "p"}
    assert heard(resumed) == []
    assert heard(lost("p"), resumed)[1:] == ["the log of pool p goes on"]
    done = {"event": "log.recovered", "pool": "p", "generation": 2}
    assert heard(lost("p"), done, resumed)[1:] == ["the log of pool p was recovered"]


def test_redis_away_and_back_is_told_with_its_reason() -> None:
    away, back = heard(
        {"event": "gateway.redis_away", "reason": "MISCONF no space\nleft on device"},
        {"event": "gateway.redis_back", "seconds": 3.2},
    )
    assert away.startswith("Redis is away (MISCONF no space left on device): commands are refused")
    assert back == "Redis is back after 3.2 s"


def test_a_second_loss_is_told_like_the_first() -> None:
    news = LogMessages("recover")
    for generation in (2, 3):
        news.receive(lost("p"))
        (line,) = news.pop_texts()
        assert line.startswith("the log of pool p is lost")
        news.receive({"event": "log.recovered", "pool": "p", "generation": generation})
        assert news.pop_texts() == ["the log of pool p was recovered"]


def test_what_is_unsaved_is_named_once_though_two_roles_name_it() -> None:
    one = {"event": "command.unsaved", "pool": "", "kind": "create_pool", "agent_id": "p"}
    (line,) = heard(one, one)
    assert line.startswith("1 thing could not be saved: create_pool p;")
    many = [{**one, "kind": "spawn", "agent_id": name} for name in "abcde"]
    (line,) = heard(*many)
    assert line.startswith("5 things could not be saved: spawn a, spawn b, spawn c and 2 more;")


async def test_only_what_comes_from_now_on_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a log that is rotated meanwhile, and of one that is not there yet."""
    monkeypatch.setattr(log_messages, "POLL_SECONDS", 0.01)
    gateway, projector = tmp_path / "gateway.jsonl", tmp_path / "projector.jsonl"
    gateway.write_text(json.dumps(lost("old")) + "\n")
    said: list[str] = []
    following = asyncio.create_task(
        follow([gateway, projector], LogMessages("recover"), said.append)
    )
    await asyncio.sleep(0.05)
    with gateway.open("a") as log:
        log.write(json.dumps(lost("a")) + "\n")
    gateway.rename(tmp_path / "gateway.jsonl.1")
    gateway.write_text(json.dumps({"event": "log.recovered", "pool": "a", "generation": 2}) + "\n")
    await until(lambda: len(said) == 2)
    projector.write_text("no JSON\n" + json.dumps(lost("b")) + "\n")
    await until(lambda: len(said) == 3)
    following.cancel()
    assert ["old" in line for line in said] == [False] * 3
