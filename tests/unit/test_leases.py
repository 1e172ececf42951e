"""Judging a lease by one's own clock."""

from workers.supervisor.liveness import LeaseWatch, Stopwatch


def test_a_lease_that_moves_is_alive_and_one_that_stands_grows_old() -> None:
    watch = LeaseWatch()
    watch.look({"a": 1, "b": 1}, 100.0)
    assert watch.look({"a": 2, "b": 1}, 101.0) == {"a": 0.0, "b": 1.0}
    assert watch.look({"a": 3, "b": 1}, 102.0) == {"a": 0.0, "b": 2.0}


def test_time_in_which_the_watcher_saw_nothing_does_not_count() -> None:
    watch = LeaseWatch(blind_seconds=2.0)
    watch.look({"a": 1}, 100.0)
    watch.look({"a": 1}, 101.0)
    assert watch.look({"a": 1}, 131.0) == {"a": 1.0}
    assert watch.look({"a": 1}, 132.0) == {"a": 2.0}


def test_one_that_comes_back_starts_anew() -> None:
    watch = LeaseWatch()
    watch.look({"a": 1}, 100.0)
    watch.look({}, 101.0)
    assert watch.look({"a": 1}, 102.0) == {"a": 0.0}


def test_a_stopwatch_runs_for_as_long_as_a_name_is_there() -> None:
    stopwatch = Stopwatch()
    stopwatch.look(["a"], 10.0)
    assert stopwatch.look(["a", "b"], 12.0) == {"a": 2.0, "b": 0.0}
    stopwatch.look([], 13.0)
    assert stopwatch.look(["a"], 14.0) == {"a": 0.0}
