"""Lines that an agent prints in parts, late, or without end."""

import sys
import time
from collections.abc import Callable

import pytest

from tests.unit.workers.captured import Captured
from workers.output import pump
from workers.output.printed import LINE_MAX


def test_a_part_of_a_line_appears_within_a_second_once_and_marked(captured: Captured) -> None:
    captured.start()
    captured.as_agent(lambda: print("dot.", end="", flush=True))
    [line] = captured.wait_for(1)
    assert (line["message"], line["partial"], line["agent_id"]) == ("dot.", True, "a1")
    captured.as_agent(lambda: print("end\n\nnext"))
    assert [line["message"] for line in captured.lines()] == ["dot.", "end", "", "next"]
    assert "partial" not in captured.lines()[1]


def test_a_newline_that_comes_late_is_no_line_of_its_own(captured: Captured) -> None:
    captured.start()
    captured.as_agent(lambda: print("waiting ...", end=""))
    captured.wait_for(1)
    captured.as_agent(lambda: print("\nnext"))
    assert [text for _, text in captured.texts()] == ["waiting ...", "next"]


@pytest.fixture
def tick(captured: Captured, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Lets the output look for old parts of lines; by itself it does not."""
    monkeypatch.setattr(pump, "TICK_SECONDS", 3600.0)
    return captured.output.pump._tick


def test_a_flush_of_nothing_cuts_no_line(captured: Captured, tick: Callable[[], object]) -> None:
    captured.start()
    captured.as_agent(lambda: [print(flush=True), sys.stdout.write("li"), tick(), print("ne")])
    assert [line["message"] for line in captured.lines()] == ["", "line"]


def test_what_grows_without_end_keeps_appearing(captured: Captured) -> None:
    captured.start()
    for expected in (1, 2):
        deadline = time.monotonic() + 2.0
        while len(captured.lines()) < expected and time.monotonic() < deadline:
            captured.as_agent(lambda: print(".", end=""))
            time.sleep(0.01)
    printed = "".join(text for _, text in captured.texts())
    assert set(printed) == {"."}


def test_a_line_in_two_prints_is_not_cut_by_the_clock(
    captured: Captured, tick: Callable[[], object]
) -> None:
    captured.start()
    for _ in range(2):
        captured.as_agent(lambda: [sys.stdout.write("one "), tick(), print("line")])
    assert [text for _, text in captured.texts()] == ["one line"] * 2


@pytest.mark.parametrize("piece", [1, 1000, 1_500_000])
def test_a_line_without_end_is_written_in_pieces_in_linear_time(
    captured: Captured, piece: int
) -> None:
    captured.owner.limited = False
    captured.start()

    def flood(size: int) -> float:
        started_at = time.process_time()
        for _ in range(size // piece):
            sys.stdout.write("x" * piece)
        return time.process_time() - started_at

    size = max(60_000, piece)
    times: list[float] = []
    captured.as_agent(lambda: times.extend([flood(size), flood(4 * size)]))
    captured.output.flush(captured.owner)
    assert sum(len(text) for _, text in captured.texts()) == 5 * size
    assert max(len(text) for _, text in captured.texts()) <= LINE_MAX
    assert times[1] < 12 * max(times[0], 0.01)
