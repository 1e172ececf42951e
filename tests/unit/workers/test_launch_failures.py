"""On which hosts a leader orders workers, given the results of its orders there."""

from eventstore.language.workers import WorkerStatus
from eventstore.log.survey import ObservedWorker
from tests.unit.workers.test_scaling import survey, worker
from workers.supervisor.launch_tracker import BACKOFF_SECONDS, ROLE_BACKOFF_SECONDS, LaunchTracker

ORDERED = WorkerStatus.REQUESTED


def failed(launches: LaunchTracker, times: int, *, now: float = 100.0) -> None:
    for number in range(times):
        launches.record_ordered({f"w{number}": "bad"}, now)
        launches.observe(survey(worker(f"w{number}", status=ORDERED)), now)
        launches.observe(survey(), now)


def test_a_host_is_skipped_for_longer_with_each_failure() -> None:
    for times, seconds in enumerate(BACKOFF_SECONDS):
        launches = LaunchTracker()
        failed(launches, times)
        assert launches.eligible(["bad", "good"], 100.0 + seconds) == ["bad", "good"]
        if seconds:
            assert launches.eligible(["bad", "good"], 100.0 + seconds - 0.01) == ["good"]


def test_workers_that_end_together_are_one_failure() -> None:
    """They had one cause, and the next launch may well do."""
    launches = LaunchTracker()
    names = [f"w{number}" for number in range(7)]
    launches.record_ordered(dict.fromkeys(names, "bad"), 100.0)
    launches.observe(survey(*map(worker, names)), 100.5)
    launches.observe(survey(), 101.0)
    assert launches.eligible(["bad"], 101.0) == ["bad"]


def test_a_worker_that_settles_resets_the_failures() -> None:
    launches = LaunchTracker()
    failed(launches, 7)
    launches.record_ordered({"w": "bad"}, 100.5)
    launches.observe(survey(worker("w")), 101.0)
    launches.observe(survey(worker("w")), 106.1)
    assert launches.eligible(["bad"], 106.1) == ["bad"]
    launches.observe(survey(), 107.0)
    failed(launches, 2)
    assert launches.eligible(["bad"], 108.0) == ["bad"], "the count started again"


def test_a_worker_that_dies_before_it_has_settled_has_failed() -> None:
    launches = LaunchTracker()
    failed(launches, 6)
    launches.record_ordered({"w": "bad"}, 100.5)
    launches.observe(survey(worker("w")), 101.0)
    launches.observe(survey(worker("w", status=WorkerStatus.LOST)), 102.0)
    assert launches.eligible(["bad"], 130.4) == []


def test_the_end_of_a_draining_or_isolated_worker_is_no_failure() -> None:
    """A poison agent's death would slow down the launches of all others."""
    state = worker("w").worker
    for last in (
        worker("w", status=WorkerStatus.DRAINING),
        ObservedWorker(state, 1, 1, 0, isolated_agent="a"),
    ):
        launches = LaunchTracker()
        failed(launches, 2)
        launches.record_ordered({"w": "bad"}, 100.5)
        launches.observe(survey(last), 100.6)
        launches.observe(survey(), 100.7)
        assert launches.eligible(["bad"], 101.0) == ["bad"], "two failures are still two"


def test_a_worker_that_is_stopped_while_it_is_young_has_not_failed() -> None:
    """A pool may stop empty workers at once, and start new ones all the time."""
    launches = LaunchTracker()
    failed(launches, 2)
    launches.record_ordered({"w": "bad"}, 100.5)
    launches.observe(survey(worker("w")), 100.6)
    launches.forget(["w"])
    launches.observe(survey(), 100.7)
    assert launches.eligible(["bad"], 101.0) == ["bad"]


def test_a_host_that_cannot_make_the_agents_is_skipped_for_longer_until_it_joins_again() -> None:
    """With other roles, perhaps. What is known of a host is forgotten as soon as it has left."""
    launches = LaunchTracker()
    for times, seconds in enumerate(ROLE_BACKOFF_SECONDS[1:], 1):
        launches.forgive_rejoined({"bad": 1, "good": 1})
        launches.record_ordered({f"w{times}": "bad"}, 100.0)
        launches.record_role_problem("bad", "import-failed: x")
        assert launches.eligible(["bad", "good"], 100.0 + seconds) == ["bad", "good"]
        assert launches.eligible(["bad", "good"], 100.0 + seconds - 0.01) == ["good"]
    assert launches.role_problem(["bad", "good"]) == "", "another host may"
    assert launches.role_problem(["bad"]) == "import-failed: x"
    launches.forgive_rejoined({"bad": 2, "good": 1})
    assert (launches.role_problem(["bad"]), launches.eligible(["bad"], 100.0)) == ("", ["bad"])


def test_a_host_that_has_left_leaves_nothing() -> None:
    launches = LaunchTracker()
    launches.forgive_rejoined({"bad": 1})
    failed(launches, 3)
    launches.record_role_problem("bad", "import-failed: x")
    launches.forgive_rejoined({})
    unused = LaunchTracker()
    assert vars(launches) == vars(unused)


def test_a_host_is_failing_from_a_failure_until_a_worker_has_settled() -> None:
    launches = LaunchTracker()
    assert not launches.failing("bad")
    failed(launches, 1)
    assert launches.failing("bad")
    assert not launches.failing("good")
    launches.record_ordered({"w": "bad"}, 200.0)
    launches.observe(survey(worker("w")), 200.5)
    launches.observe(survey(worker("w")), 205.6)
    assert not launches.failing("bad")


def test_the_slowest_start_since_the_last_call_is_reported_once() -> None:
    launches = LaunchTracker()
    launches.record_ordered({"a": "h", "b": "h", "c": "h"}, 100.0)
    launches.observe(survey(worker("a"), worker("b"), worker("c", status=ORDERED)), 100.5)
    launches.observe(survey(worker("a"), worker("b"), worker("c")), 102.0)
    assert launches.slowest_start_ms() == 2000
    launches.observe(survey(worker("a"), worker("b"), worker("c")), 103.0)
    assert launches.slowest_start_ms() == 0
