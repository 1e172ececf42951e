"""What a client that listens to the events has to have heard."""

from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any, cast

import pytest

from tests.chaos.listening import Archived, Listener, judge_heard

ROWS = [
    Archived("", 1, 1, "c1"),
    Archived("p", 1, 1, "a"),
    Archived("p", 1, 2, "b"),
    Archived("p", 2, 3, "c"),
]
ALL = [("p", "a"), ("", "c1"), ("p", "b"), ("p", "c")]


@pytest.mark.parametrize(
    ("heard", "found"),
    [
        (ALL, []),
        (ALL[:-1], ["never heard: p 2:3 event c"]),
        ([*ALL, ("p", "c")], ["heard twice: p event c"]),
        ([ALL[0], ALL[1], ALL[3], ALL[2]], ["heard out of order: p event b: seq 2 after 3"]),
        ([*ALL, ("p", "x")], ["heard, and not in the archive: p event x"]),
    ],
)
def test_every_archived_event_is_heard_once_and_in_order(
    heard: Sequence[tuple[str, str]], found: list[str]
):
    assert list(judge_heard(heard, ROWS, lossy=False)) == found


def test_what_a_log_has_lost_may_have_been_heard():
    """It was there when it was told; a recovery went on without it."""
    assert list(judge_heard([*ALL, ("p", "x")], ROWS, lossy=True)) == []


class Content:
    """The lines of an answer that may break off."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines

    @property
    async def content(self) -> AsyncIterator[bytes]:
        for line in self.lines:
            yield f"{line}\n".encode()


async def test_an_event_that_was_cut_short_has_not_come():
    """Its id is not kept either, so it comes again."""
    listener = Listener(["-"], Random(1))
    event = 'data: {"pool":"p","event_id":"%s"}'
    answer = Content("retry: 1", "id: 0", "", "id: 1", event % "a", "", "id: 2", event % "b")
    await listener._take_in(cast("Any", answer))
    assert listener.heard == [("p", "a")]
    assert listener._last_id == "1"
