"""An agent that floods its log is limited, and that is said; its neighbours are not."""

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.workers.captured import Captured
from workers.output.encoding import LOGGED_MAX
from workers.output.limits import Limit, OutputLimits
from workers.output.lines import logger_of

LIMITS = OutputLimits(lines_per_second=20.0, bytes_per_second=100_000.0, burst_seconds=2.0)


class Clock:
    """The seconds by which limits are refilled."""

    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("workers.output.limits.time", SimpleNamespace(monotonic=lambda: made.now))
    return made


@pytest.fixture
def limited(tmp_path: Path, clock: Clock) -> Iterator[Captured]:
    made = Captured(tmp_path, LIMITS)
    yield made
    made.stop()


def test_a_flood_is_cut_and_counted_once(limited: Captured, clock: Clock) -> None:
    limited.start()
    limited.as_agent(lambda: [print("line", number) for number in range(1000)])
    limited.agent("a2").context().run(print, "heard")
    assert [text for agent, text in limited.texts() if agent == "a1"] == [
        f"line {number}" for number in range(40)
    ]
    assert limited.texts()[-1] == ("a2", "heard")
    clock.now += 0.2
    [said] = limited.wait_for(42)[41:]
    assert (said["event"], said["dropped_lines"], said["agent_id"]) == ("output.limited", 960, "a1")
    limited.as_agent(lambda: print("again"))
    assert limited.texts()[-1] == ("a1", "again")


def test_what_was_dropped_is_said_when_an_agent_ends(limited: Captured) -> None:
    limited.start()
    for _ in range(50):
        limited.owner.context().run(logging.getLogger("acme").info, "line")
    limited.output.flush(limited.owner)
    assert limited.lines()[-1]["dropped_lines"] == 10


def test_errors_of_an_agent_that_is_limited_are_written_up_to_a_limit(limited: Captured) -> None:
    limited.start()

    def flood() -> None:
        for _ in range(100):
            print("line")
        for _ in range(10):
            logging.getLogger("acme").info("lost")
            logging.getLogger("acme").error("important")

    limited.as_agent(flood)
    texts = [text for _, text in limited.texts()]
    assert (texts.count("line"), texts.count("lost")) == (40, 0)
    assert texts.count("important") == 4


def test_what_is_dropped_as_a_whole_leaves_no_piece_of_a_line(
    limited: Captured, clock: Clock
) -> None:
    limited.start()
    printed = limited.output.printed(limited.owner, "stdout")
    limited.as_agent(lambda: [print("line") for _ in range(100)])
    assert printed.add_bytes(b"x" * 2000 + b"\n" + b"half of " * 300)
    clock.now += 10.0
    assert not printed.add_bytes(b"a line\nnext\n")
    assert [text for _, text in limited.texts()][-1] == "next"
    dropped = [line["dropped_lines"] for line in limited.lines() if "dropped_lines" in line]
    assert sum(dropped) == 61


def test_a_huge_line_is_a_bounded_part_of_the_file(limited: Captured) -> None:
    limited.start()
    started_at = time.process_time()
    limited.as_agent(lambda: sys.stdout.write("x" * 50_000_000))
    limited.as_agent(lambda: logger_of(limited.owner).info("large", blob="x" * 50_000_000))
    limited.output.flush(limited.owner)
    assert time.process_time() - started_at < 2.0
    assert limited.output.file.path.stat().st_size < 400_000
    assert sum(line.get("dropped_lines", 0) for line in limited.lines()) > 700


def test_a_large_logged_line_keeps_the_beginnings_of_its_values(captured: Captured) -> None:
    captured.start()
    blobs = {f"blob{number}": ["x" * 1_000_000] for number in range(3)}
    captured.as_agent(lambda: logger_of(captured.owner).info("large", number=7, **blobs))
    [line] = captured.lines()
    assert (line["event"], line["number"], line["agent_id"]) == ("large", 7, "a1")
    assert line["blob2"].endswith("more characters)")
    assert captured.output.file.path.stat().st_size < LOGGED_MAX


def test_a_limit_refills(clock: Clock) -> None:
    limit = Limit(OutputLimits(lines_per_second=10, bytes_per_second=100, burst_seconds=10))
    assert sum(limit.admit(1) for _ in range(200)) == 100
    clock.now += 0.5
    assert not limit.admit(1), "a tenth of the burst has to be there again"
    clock.now += 0.75
    assert sum(limit.admit(1) for _ in range(200)) == 12
    assert limit.take_dropped() == (289, 289)
    clock.now += 1000.0
    assert limit.admit(5_000), "what one line takes too much is owed"
    clock.now += 1.0
    assert not limit.admit(1)
    clock.now += 41.0
    assert limit.admit(1)
