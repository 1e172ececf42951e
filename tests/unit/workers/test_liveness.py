"""Judging a lease by one's own clock."""

import pytest

from workers.supervisor.polling import Stopwatch, max_gap


def test_a_lease_that_is_renewed_is_alive_and_another_ages() -> None:
    watch = Stopwatch()
    watch.observe([("a", 1), ("b", 1)], 100.0)
    assert watch.observe([("a", 2), ("b", 1)], 101.0) == {("a", 2): 0.0, ("b", 1): 1.0}
    assert watch.observe([("a", 3), ("b", 1)], 102.0) == {("a", 3): 0.0, ("b", 1): 2.0}


def test_of_time_without_polls_of_the_watcher_only_a_part_counts() -> None:
    """Redis was unreachable, or the watcher suspended: the holder gets time to renew."""
    watch = Stopwatch()
    watch.observe([("a", 1)], 100.0, max_gap_seconds=2.0)
    watch.observe([("a", 1)], 101.0, max_gap_seconds=2.0)
    seen = watch.observe([("a", 1), ("b", 1)], 131.0, max_gap_seconds=2.0)
    assert seen == {("a", 1): 3.0, ("b", 1): 0.0}
    assert watch.observe([("a", 1)], 132.0, max_gap_seconds=2.0) == {("a", 1): 4.0}


@pytest.mark.parametrize("pause", [0.5, 2.9, 3.1, 5.0, 60.0])
@pytest.mark.parametrize("lease", [1.0, 10.0, 600.0])
def test_a_watcher_that_polls_rarely_finds_the_dead_later(pause: float, lease: float) -> None:
    watch, now, polls = Stopwatch(), 1000.0, 0
    while watch.observe(["dead"], now, max_gap_seconds=max_gap(lease))["dead"] <= lease:
        now, polls = now + pause, polls + 1
    assert now - 1000.0 > lease
    assert polls <= max(lease / pause, 4) + 1


def test_a_worker_that_returns_starts_again() -> None:
    watch = Stopwatch()
    watch.observe([("a", 1)], 100.0)
    watch.observe([], 101.0)
    assert watch.observe([("a", 1)], 102.0) == {("a", 1): 0.0}


def test_a_stopwatch_runs_while_its_name_is_present() -> None:
    stopwatch = Stopwatch()
    stopwatch.observe(["a"], 10.0)
    assert stopwatch.observe(["a", "b"], 12.0) == {"a": 2.0, "b": 0.0}
    stopwatch.observe([], 13.0)
    assert stopwatch.observe(["a"], 14.0) == {"a": 0.0}
