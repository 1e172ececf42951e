"""Which workers are replaced next, and when that stops."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.language.replacement import Replacement
from eventstore.language.workers import WorkerStatus
from eventstore.log.survey import ObservedWorker, Survey
from tests.unit.workers.test_scaling import survey, worker
from workers.supervisor.replacing import (
    LAPSED,
    LOST_MAX,
    PROVEN_SECONDS,
    Happening,
    Plan,
    Trials,
    plan,
)

EPOCH = 10


def replacement(at_once: int = 1, workers: int = 3) -> Replacement:
    return Replacement(
        replacement_id="r", reason="t", actor="t", epoch=EPOCH, workers=workers,
        max_unavailable=at_once, started_at=1,
    )  # fmt: skip


def aged(observed: ObservedWorker, epoch: int, drain_ms: int = 0) -> ObservedWorker:
    return replace(observed, worker=replace(observed.worker, epoch=epoch, drain_ms=drain_ms))


def ids(workers: object) -> list[str]:
    return [one.worker_id for one in workers]  # type: ignore[attr-defined]


def planned(
    found: Survey, replacement: Replacement, proven: set[str], workers_max: int = 100
) -> Plan:
    return plan(found, replacement, proven, workers_max)


def test_all_are_cordoned_and_the_one_with_the_fewest_agents_drains() -> None:
    found = survey(*(aged(worker(f"w{n}", agents=9 - n), 1) for n in range(3)))
    first = planned(found, replacement(), set())
    assert (ids(first.retire), ids(first.cordon)) == (["w2"], ["w1", "w0"])
    assert ids(planned(found, replacement(at_once=9), set()).retire) == ["w2", "w1", "w0"]


def test_the_next_one_waits_until_the_new_one_has_proved_itself() -> None:
    found = survey(aged(worker("a", cordoned=True), 1), aged(worker("new"), EPOCH + 1))
    assert not planned(found, replacement(workers=2), set()).retire
    assert ids(planned(found, replacement(workers=2), {"new"}).retire) == ["a"]


def test_the_next_one_waits_for_a_worker_that_is_yet_to_be_ordered() -> None:
    """The one before has ended, and agents wait; else nothing needs it."""
    found = survey(aged(worker("a", cordoned=True), 1), waiting=2)
    assert not planned(found, replacement(workers=2), set()).retire
    assert ids(planned(replace(found, waiting=0), replacement(workers=2), set()).retire) == ["a"]


def test_no_worker_is_waited_for_that_the_pool_may_not_have() -> None:
    new = [aged(worker(name, agents=10), EPOCH + 1) for name in "ab"]
    found = survey(aged(worker("old", agents=10, cordoned=True), 1), *new, waiting=9)
    assert not planned(found, replacement(workers=4), {"a", "b"}).retire
    assert ids(planned(found, replacement(workers=4), {"a", "b"}, 3).retire) == ["old"]
    found = survey(*new, waiting=9)
    assert not planned(found, replacement(workers=4), {"a"}, 2).finished
    assert planned(found, replacement(workers=4), {"a", "b"}, 2).finished


def test_it_is_finished_when_no_old_worker_is_left_and_enough_new_ones_are_proven() -> None:
    new = [aged(worker(name), EPOCH + 1) for name in "abc"]
    leaving = aged(worker("old", status=WorkerStatus.DRAINING), 1)
    assert planned(survey(), replacement(), set()).finished
    assert planned(survey(*new), replacement(workers=2), {"a", "b"}).finished
    assert not planned(survey(*new), replacement(workers=3), {"a", "b"}).finished
    assert not planned(survey(*new, leaving), replacement(), {"a", "b", "c"}).finished


drawn = st.lists(
    st.builds(
        lambda agents, status, new, cordoned, due: (agents, status, new, cordoned or due, due),
        st.integers(0, 10), st.sampled_from(list(WorkerStatus)), st.booleans(), st.booleans(),
        st.booleans(),
    ),
    max_size=9,
)  # fmt: skip


@given(drawn=drawn, at_once=st.integers(1, 4), waiting=st.integers(0, 9), proven=st.booleans())
def test_no_more_are_gone_at_once_than_may_be(
    drawn: list[tuple[int, WorkerStatus, bool, bool, bool]],
    at_once: int,
    waiting: int,
    proven: bool,
) -> None:
    observed = [
        aged(
            worker(f"w{n}", agents, status, cordoned=cordoned),
            EPOCH + 1 if new else 1,
            drain_ms=99 if due else 0,
        )
        for n, (agents, status, new, cordoned, due) in enumerate(drawn)
    ]
    found = survey(*observed, waiting=waiting)
    proved = {o.worker.worker_id for o in observed} if proven else set()
    made = planned(found, replacement(at_once, workers=4), proved)
    old = {
        o.worker.worker_id: o.worker
        for o in observed
        if o.worker.alive and o.worker.epoch < EPOCH and not o.worker.draining
    }
    chosen = {*ids(made.retire), *ids(made.cordon)}
    assert chosen <= old.keys()
    assert not set(ids(made.retire)) & set(ids(made.cordon))
    assert not any(old[name].drain_ms for name in chosen)
    draining = sum(
        o.worker.alive and o.worker.draining and o.worker.epoch < EPOCH for o in observed
    )
    leaving = draining + sum(one.drain_ms > 0 for one in old.values())
    assert not made.retire or leaving + len(made.retire) <= at_once


def happening(kind: str, subject: str = "a", worker_id: str = "w", why: str = "E: m") -> Happening:
    return Happening(kind, subject, worker_id, EPOCH + 1, why)


def stopped(trials: Trials) -> str:
    return trials.failure


def test_a_worker_is_proven_once_its_first_agent_has_run_for_a_while() -> None:
    trials, found = Trials(EPOCH), survey(aged(worker("w", agents=1), EPOCH + 1))
    trials.record(happening("agent.claimed"), 100.0)
    trials.observe(found, 100.0)
    trials.observe(found, 100.0 + 2 * PROVEN_SECONDS)
    assert not trials.proven
    trials.record(happening("agent.started"), 120.0)
    trials.observe(found, 120.0 + PROVEN_SECONDS - 0.1)
    assert not trials.proven
    trials.observe(found, 120.0 + PROVEN_SECONDS)
    assert (trials.proven, trials.failure) == ({"w"}, "")


@pytest.mark.parametrize(("waiting", "proven"), [(0, True), (1, False)])
def test_an_empty_worker_is_proven_if_nothing_waits_for_it(waiting: int, proven: bool) -> None:
    trials, found = Trials(EPOCH), survey(aged(worker("w"), EPOCH + 1), waiting=waiting)
    trials.observe(found, 100.0)
    trials.observe(found, 100.0 + PROVEN_SECONDS)
    assert bool(trials.proven) == proven


def test_a_worker_that_is_not_ready_begins_again() -> None:
    trials, found = Trials(EPOCH), survey(aged(worker("w"), EPOCH + 1))
    stalled = replace(found, workers=tuple(replace(o, stalled="x") for o in found.workers))
    for now, seen in ((100.0, found), (101.0, stalled), (102.0, found)):
        trials.observe(seen, now)
    trials.observe(found, 100.0 + PROVEN_SECONDS)
    assert not trials.proven
    trials.observe(found, 102.0 + PROVEN_SECONDS)
    assert trials.proven


def test_failures_of_half_of_the_agents_of_a_new_worker_stop_it() -> None:
    trials = Trials(EPOCH)
    for name in "abcd":
        trials.record(happening("agent.claimed", name), 100.0)
    trials.record(Happening("agent.crashed", "o", "old", EPOCH - 1, "E: m"), 100.0)
    for _ in range(9):  # one that fails again and again is one
        trials.record(happening("agent.crashed", "a"), 100.0)
    assert stopped(trials) == ""
    trials.record(happening("agent.start_failed", "b"), 100.0)
    assert stopped(trials) == "2 of 4 agents failed on the new worker w, the last one with E: m"


def test_a_new_worker_without_its_role_stops_it_and_lost_ones_after_a_few() -> None:
    trials = Trials(EPOCH)
    trials.record(Happening("worker.lost", "old", "old", EPOCH + 5, "killed"), 100.0)
    for number in range(2 * LOST_MAX):
        trials.record(happening("worker.requested", f"o{number}"), 100.0)
        trials.record(happening("worker.lost", f"o{number}", why=LAPSED), 100.0)
    for number in range(LOST_MAX):
        assert stopped(trials) == ""
        trials.record(happening("worker.requested", f"w{number}"), 100.0)
        trials.record(happening("worker.lost", f"w{number}", why="killed by signal 9"), 100.0)
    assert stopped(trials) == f"the new worker w{LOST_MAX - 1} failed: killed by signal 9"
    other = Trials(EPOCH)
    other.record(happening("worker.requested", "w"), 100.0)
    other.record(happening("worker.stopped", "w", why="import-failed: role 'd': E"), 100.0)
    assert other.failure
