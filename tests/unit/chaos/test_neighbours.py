"""What misbehaving agents may do to others, as the harness judges it."""

from collections import Counter

import pytest

from tests.chaos.neighbours import Ended, Neighbours

BAD, GOOD = "agent-bad", "agent-good"


def judged(*ends: Ended, acts: int = 1) -> list[str]:
    return list(Neighbours({BAD}, [], Counter({BAD: acts}), list(ends)).offences())


@pytest.mark.parametrize(
    "end",
    [
        Ended("agent.crashed", BAD, "RuntimeError: no"),
        Ended("worker.lost", "w", "its lease was not renewed for 3 s"),
        Ended("worker.lost", "w", f"stuck: a thread of {BAD} goes on"),
        Ended("worker.draining", "w", "empty"),
    ],
)
def test_what_faults_and_named_agents_do_is_right(end: Ended) -> None:
    assert judged(end) == []


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (Ended("agent.unhealthy", GOOD, "checks"), "a good neighbour failed"),
        (Ended("worker.lost", "w", "exited with code 70"), "names no agent"),
        (Ended("worker.draining", "w", "shut down by its agents"), "names no agent"),
    ],
)
def test_a_good_agent_that_fails_and_an_end_without_a_name_are_offences(
    end: Ended, said: str
) -> None:
    [offence] = judged(end)
    assert said in offence


def test_an_agent_that_ends_more_workers_than_it_acted_is_an_offence() -> None:
    again = Ended("worker.lost", "w", f"stuck: {BAD}")
    [offence] = judged(again, again)
    assert offence == f"agent {BAD} ended 2 workers with 1 acts"
