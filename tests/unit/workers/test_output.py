"""What agents print and log: complete lines of JSON with the ids of their agent."""

import asyncio
import io
import logging
import sys
import threading
from pathlib import Path

import pytest
import structlog

from tests.unit.workers.captured import Captured
from workers.output.capture import Capture
from workers.output.lines import Owner, logger_of
from workers.output.log_files import ROTATED_MAX, LogFile
from workers.output.printed import LINE_MAX


def test_prints_have_the_ids_of_their_agent(captured: Captured):
    captured.start()
    captured.as_agent(lambda: print("hello\nworld"))
    print("from the worker itself", file=sys.stderr)
    first, second, third = captured.lines()
    assert (first["message"], first["agent_id"], first["stream"]) == ("hello", "a1", "stdout")
    assert second["message"] == "world"
    assert (third["worker_id"], third["stream"]) == ("w1", "stderr")
    assert "agent_id" not in third


def test_partial_lines_of_agents_do_not_mix(captured: Captured):
    """Each has its own until its newline, or its end, comes."""
    captured.start()
    other = Owner({"agent_id": "a2"}, captured.output)
    captured.as_agent(lambda: print("one ", end=""))
    other.context().run(lambda: print("two ", end=""))
    captured.as_agent(lambda: print("line"))
    captured.output.flush(other)
    logged = [(line["agent_id"], line["message"]) for line in captured.lines()]
    assert logged == [("a1", "one line"), ("a2", "two ")]


async def test_output_of_an_agents_tasks_and_threads_is_attributed_to_it(captured: Captured):
    captured.start()

    async def speak() -> None:
        await asyncio.create_task(asyncio.to_thread(print, "from a thread"))

    await asyncio.get_running_loop().create_task(speak(), context=captured.owner.context())
    assert captured.lines()[0]["agent_id"] == "a1"


def test_logging_is_captured_with_its_level_and_exception(captured: Captured):
    captured.start()

    def fail() -> None:
        try:
            raise ValueError("why")
        except ValueError:
            logging.getLogger("acme").exception("it %s", "failed")
        logging.getLogger("acme").info("fine")

    captured.as_agent(fail)
    failed, fine = captured.lines()
    assert (failed["level"], failed["message"], failed["logger"]) == ("error", "it failed", "acme")
    assert "ValueError: why" in failed["exception"]
    assert (fine["level"], fine["agent_id"]) == ("info", "a1")


def test_handlers_made_before_the_fork_are_redirected(tmp_path: Path):
    """A role's module may have set up `logging` when it was imported."""
    logger = logging.getLogger("acme.early")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    made = Captured(tmp_path)
    Capture.start(made.output)
    made.as_agent(lambda: logger.warning("early"))
    Capture.stop()
    logger.removeHandler(handler)
    assert {line["agent_id"] for line in made.lines()} == {"a1"}
    made.output.close()


def test_structlog_keeps_its_fields(captured: Captured):
    captured.start()
    captured.as_agent(lambda: structlog.get_logger().info("order.taken", order=7, stream="mine"))
    (line,) = captured.lines()
    assert (line["event"], line["order"], line["level"]) == ("order.taken", 7, "info")
    assert (line["agent_id"], line["stream"], line["stream_"]) == ("a1", "log", "mine")


def test_the_contexts_logger_knows_its_agent_in_any_thread(captured: Captured):
    captured.start()
    logger = logger_of(captured.owner).bind(step=1)
    thread = threading.Thread(target=lambda: logger.warning("odd"))
    thread.start()
    thread.join()
    (line,) = captured.lines()
    assert (line["event"], line["level"], line["step"]) == ("odd", "warning", 1)
    assert line["agent_id"] == "a1"


def test_where_workers_share_a_process_only_agents_are_captured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made = Captured(tmp_path)
    Capture.start(made.output, shared=True)
    made.as_agent(lambda: print("agent"))
    print("muster")
    Capture.stop()
    made.output.close()
    assert [line["message"] for line in made.lines()] == ["agent"]
    assert capsys.readouterr().out == "muster\n"


def test_captures_overlap_and_everything_is_restored(tmp_path: Path):
    made = Captured(tmp_path)
    before = (sys.stdout, logging.getLogger().handlers[:], structlog.get_config()["processors"])
    Capture.start(made.output, shared=True)
    Capture.start(made.output, shared=True)
    Capture.stop()
    assert sys.stdout is not before[0]
    Capture.stop()
    after = (sys.stdout, logging.getLogger().handlers[:], structlog.get_config()["processors"])
    assert after == before


class Awkward:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_values_without_a_json_form_are_written_too(captured: Captured):
    captured.start()
    structlog.get_logger().info(
        "odd", what=Awkward(), text="\udcff", number=1 << 80, path=Path("x")
    )
    print("\udcff")
    odd, printed = captured.lines()
    assert odd["what"] == "<Awkward: its repr raised RuntimeError>"
    assert (odd["text"], odd["number"]) == ("\\udcff", str(1 << 80))
    assert printed["message"] == "\\udcff"


def test_printing_while_printing_does_not_deadlock(captured: Captured):
    captured.start()

    class Chatty:
        def __repr__(self) -> str:
            print("inner")
            return "chatty"

    structlog.get_logger().info("outer", what=Chatty())
    assert [line.get("message") or line["event"] for line in captured.lines()] == ["inner", "outer"]


def test_endless_lines_are_cut(captured: Captured):
    captured.start()
    print("x" * (2 * LINE_MAX + 5), end="")
    captured.output.flush()
    assert [len(line["message"]) for line in captured.lines()] == [LINE_MAX, LINE_MAX, 5]


def test_bytes_and_descriptors_of_the_stream_work(captured: Captured):
    """For code that writes `sys.stdout.buffer`."""
    captured.start()
    sys.stdout.buffer.write(b"raw\n")
    sys.stdout.flush()
    assert isinstance(sys.stdout, io.TextIOBase)
    assert captured.lines()[0]["message"] == "raw"


def test_files_are_rotated_by_size(tmp_path: Path):
    """Nothing is lost between them, and the oldest are removed."""
    file = LogFile(tmp_path / "pool" / "w.jsonl", size_max=100)
    for number in range(40):
        file.write(f"{number:019}\n".encode())
    file.close()
    names = sorted(path.name for path in (tmp_path / "pool").iterdir())
    assert names == ["w.jsonl", *(f"w.jsonl.{n}" for n in range(1, ROTATED_MAX + 1))]
    retained = "".join((tmp_path / "pool" / name).read_text() for name in [*names[:0:-1], names[0]])
    assert [int(line) for line in retained.splitlines()] == list(range(20, 40))


def test_a_line_that_cannot_be_written_stops_no_agent(tmp_path: Path):
    (tmp_path / "pool").write_text("not a folder")
    file = LogFile(tmp_path / "pool" / "w.jsonl")
    file.write(b"x\n")
    assert file.dropped == 1
    file.close()
    file.close()
