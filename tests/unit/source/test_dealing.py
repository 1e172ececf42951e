"""The order of a run's tests."""

import pytest

from tests.dealing import dealt


def is_slow(item: str) -> bool:
    return item.startswith("slow")


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("slow", "quick"), [(0, 10), (3, 0), (9, 2), (64, 4951)])
def test_each_test_runs_once(slow: int, quick: int, workers: int) -> None:
    items = [f"slow {at}" for at in range(slow)] + [f"quick {at}" for at in range(quick)]
    assert sorted(dealt(items, is_slow, workers)) == sorted(items)


def test_two_of_four_processes_begin_with_half_of_the_slow_tests_each() -> None:
    items = [f"slow {at}" for at in range(6)] + [f"quick {at}" for at in range(34)]
    order = dealt(items, is_slow, 4)
    parts = [order[at : at + 10] for at in range(0, 40, 10)]
    assert [part[:3] for part in parts[:2]] == [
        ["slow 0", "slow 2", "slow 4"],
        ["slow 1", "slow 3", "slow 5"],
    ]
    assert [any(map(is_slow, part[3:])) for part in parts] == [False] * 4
    assert [any(map(is_slow, part)) for part in parts[2:]] == [False] * 2
