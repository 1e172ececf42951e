"""Judging a lease by one's own clock."""

from workers.supervisor.liveness import LeaseMonitor, Stopwatch


def test_a_lease_that_moves_is_alive_and_one_that_stands_grows_old() -> None:
    watch = LeaseMonitor()
    watch.observe({"a": 1, "b": 1}, 100.0)
    assert watch.observe({"a": 2, "b": 1}, 101.0) == {"a": 0.0, "b": 1.0}
    assert watch.observe({"a": 3, "b": 1}, 102.0) == {"a": 0.0, "b": 2.0}


def test_time_in_which_the_watcher_saw_nothing_does_not_count() -> None:
    watch = LeaseMonitor(max_gap_seconds=2.0)
    watch.observe({"a": 1}, 100.0)
    watch.observe({"a": 1}, 101.0)
    assert watch.observe({"a": 1}, 131.0) == {"a": 1.0}
    assert watch.observe({"a": 1}, 132.0) == {"a": 2.0}


def test_one_that_comes_back_starts_anew() -> None:
    watch = LeaseMonitor()
    watch.observe({"a": 1}, 100.0)
    watch.observe({}, 101.0)
    assert watch.observe({"a": 1}, 102.0) == {"a": 0.0}


def test_a_stopwatch_runs_for_as_long_as_a_name_is_there() -> None:
    stopwatch = Stopwatch()
    stopwatch.observe(["a"], 10.0)
    assert stopwatch.observe(["a", "b"], 12.0) == {"a": 2.0, "b": 0.0}
    stopwatch.observe([], 13.0)
    assert stopwatch.observe(["a"], 14.0) == {"a": 0.0}
