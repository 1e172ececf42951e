"""What a client that follows the events must have received."""

from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any, cast

import pytest

from tests.chaos.listening import Archived, Listener, Received, judge_received

ROWS = [
    Archived("", 1, 1, "c1"),
    Archived("p", 1, 1, "a"),
    Archived("p", 1, 2, "b"),
    Archived("p", 2, 3, "c"),
]
C1, A, B, C = (Received(row.pool, row.event_id, row.seq) for row in ROWS)
ALL = [A, C1, B, C]
X = Received("p", "x", 3)
"""What is not archived."""


@pytest.mark.parametrize(
    ("received", "found"),
    [
        (ALL, []),
        (ALL[:-1], ["never received: p 2:3 event c"]),
        ([*ALL, C], ["received twice: p event c"]),
        ([A, C1, C, B], ["received out of order: p event b: seq 2 after 3"]),
        ([*ALL, X], ["received, and not in the archive: p event x"]),
    ],
)
def test_every_archived_event_is_received_once_and_in_order(
    received: Sequence[Received], found: list[str]
):
    assert list(judge_received(received, ROWS, lossy=False)) == found


def test_events_that_a_log_lost_may_have_been_received():
    """It existed when it was received; a recovery continued without it."""
    lost = Received("q", "y", 1)
    assert list(judge_received([A, C1, B, X, C, lost], ROWS, lossy=True)) == []


@pytest.mark.parametrize("received", [[*ALL, X], [A, Received("p", "x", 1), C1, B, C]])
def test_a_received_event_that_the_log_still_has_is_not_lost(received: Sequence[Received]):
    """That some log was recovered at some time does not excuse all that was ever received."""
    assert "received, and not in the archive: p event x" in judge_received(
        received, ROWS, lossy=True
    )


def test_an_archive_that_cannot_be_read_is_no_proof():
    assert "the archive could not be read" in next(judge_received(ALL, [], lossy=True))


class Content:
    """The lines of an answer that may break off."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines

    @property
    async def content(self) -> AsyncIterator[bytes]:
        for line in self.lines:
            yield f"{line}\n".encode()


async def test_a_truncated_event_does_not_count_as_received():
    """Its id is not stored either, so it comes again."""
    listener = Listener(["-"], Random(1))
    event = 'data: {"pool":"p","event_id":"%s","seq":1}'
    answer = Content("retry: 1", "id: 0", "", "id: 1", event % "a", "", "id: 2", event % "b")
    await listener._take_in(cast("Any", answer))
    assert listener.received == [Received("p", "a", 1)]
    assert listener._last_id == "1"
