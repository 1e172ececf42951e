"""Judging a lease by one's own clock."""

from workers.supervisor.polling import MAX_GAP_SECONDS, Stopwatch


def test_a_lease_that_is_renewed_is_alive_and_another_ages() -> None:
    watch = Stopwatch(max_gap_seconds=MAX_GAP_SECONDS)
    watch.observe([("a", 1), ("b", 1)], 100.0)
    assert watch.observe([("a", 2), ("b", 1)], 101.0) == {("a", 2): 0.0, ("b", 1): 1.0}
    assert watch.observe([("a", 3), ("b", 1)], 102.0) == {("a", 3): 0.0, ("b", 1): 2.0}


def test_time_without_polls_of_the_watcher_does_not_count() -> None:
    watch = Stopwatch(max_gap_seconds=2.0)
    watch.observe([("a", 1)], 100.0)
    watch.observe([("a", 1)], 101.0)
    assert watch.observe([("a", 1), ("b", 1)], 131.0) == {("a", 1): 1.0, ("b", 1): 0.0}
    assert watch.observe([("a", 1)], 132.0) == {("a", 1): 2.0}


def test_a_worker_that_returns_starts_again() -> None:
    watch = Stopwatch(max_gap_seconds=MAX_GAP_SECONDS)
    watch.observe([("a", 1)], 100.0)
    watch.observe([], 101.0)
    assert watch.observe([("a", 1)], 102.0) == {("a", 1): 0.0}


def test_a_stopwatch_runs_while_its_name_is_present() -> None:
    stopwatch = Stopwatch()
    stopwatch.observe(["a"], 10.0)
    assert stopwatch.observe(["a", "b"], 12.0) == {"a": 2.0, "b": 0.0}
    stopwatch.observe([], 13.0)
    assert stopwatch.observe(["a"], 14.0) == {"a": 0.0}
