"""When the projector waits for more events before it writes."""

import pytest

from projector.service.gathering import EVENTS, SECONDS, Gathering


@pytest.mark.parametrize(
    ("count", "every_seconds", "gathers"),
    [
        (1, 0.01, False),
        (4, 0.1, False),
        (EVENTS - 1, 1.0, False),
        (EVENTS, 1.0, True),
        (20, 0.01, True),
        (60, SECONDS, True),
    ],
)
def test_events_are_gathered_where_many_come(
    count: int, every_seconds: float, gathers: bool
) -> None:
    gathering = Gathering()
    pauses = [gathering.pause_seconds([count], 1000, 100 + n * every_seconds) for n in range(20)]
    assert pauses[-1] == (SECONDS if gathers else 0.0)


def test_after_a_rush_events_are_written_at_once_again() -> None:
    gathering = Gathering()
    assert gathering.pause_seconds([10 * EVENTS, 1], 1000, 100.0) == SECONDS
    assert gathering.pause_seconds([1], 1000, 100.5) == 0.0


def test_nothing_is_waited_for_where_more_is_waiting() -> None:
    assert Gathering().pause_seconds([1, 1000], 1000, 100.0) == 0.0
