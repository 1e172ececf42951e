"""The judge itself: each kind of violation, planted, is found; a clean history is not."""

# ruff: noqa: E501  # the table reads best with one case a line

import json
from typing import Any

import pytest

from tests.invariants import fold


def event(
    kind: str,
    subject: str = "a",
    *,
    incarnation: int = 1,
    worker: str = "",
    epoch: str = "",
    **data: Any,
) -> dict[str, str]:
    return {
        "type": kind,
        "subject": subject,
        "incarnation": str(incarnation),
        "worker_id": worker,
        "epoch": epoch,
        "data": json.dumps(data),
    }


ORDER = event("worker.requested", "w", worker="w", max_agents=1)
START = event("worker.started", "w", worker="w", epoch="1")
ASK = event("agent.requested")
CLAIM = event("agent.claimed", worker="w", epoch="1")
RUN = event("agent.started", worker="w", epoch="1")
FLAG = event("agent.termination_requested", worker="w")
END = event("agent.terminated", worker="w", epoch="1")
LOST = event("worker.lost", "w", worker="w", epoch="2")
LOSE = event("agent.lost", worker="w", epoch="2")
AGAIN = event("agent.restarting", next_incarnation=2)
CLEAN = [ORDER, START, ASK, CLAIM, RUN, FLAG, END]
REAPED = [ORDER, START, ASK, CLAIM, RUN, LOST, LOSE, AGAIN]


def offences(history: list[dict[str, str]], skip: int = 0) -> list[str]:
    numbered = [{**e, "seq": str(n + (skip if n > 2 else 0))} for n, e in enumerate(history, 1)]
    return fold(numbered).offences


@pytest.mark.parametrize(
    "history",
    [CLEAN, REAPED, [*REAPED, event("agent.termination_requested"), event("agent.terminated")]],
)
def test_a_clean_history_is_clean(history: list[dict[str, str]]) -> None:
    assert offences(history) == []


@pytest.mark.parametrize(
    ("number", "history"),
    [
        (1, [ORDER, START, ASK, CLAIM, event("agent.requested", "b"), event("agent.claimed", "b", worker="w", epoch="1")]),
        (1, [ORDER, START, ASK, CLAIM, event("worker.stopped", "w", worker="w", epoch="1")]),
        (2, [ASK, ASK]),
        (2, [ORDER, START, CLAIM]),
        (2, [ORDER, START, ASK, CLAIM, CLAIM]),
        (2, [ORDER, START, ASK, CLAIM, RUN, RUN]),
        (2, [*REAPED, event("agent.claimed", incarnation=1, worker="w", epoch="2")]),
        (3, [ORDER, START, ASK, CLAIM, FLAG, RUN]),
        (3, [ORDER, START, ASK, FLAG, CLAIM]),
        (3, [*CLEAN, AGAIN]),
        (4, [ORDER, START, ASK, CLAIM, LOST, RUN]),
    ],
)  # fmt: skip
def test_a_planted_violation_is_found(number: int, history: list[dict[str, str]]) -> None:
    found = offences(history)
    assert any(f"invariant {number}" in offence for offence in found), found


def test_a_gap_is_found() -> None:
    assert any("invariant 5" in offence for offence in offences(CLEAN, skip=1))
