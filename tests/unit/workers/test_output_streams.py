"""`sys.stdout` and `sys.stderr` of agents: streams as those of a pipe, for each agent its own."""

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.unit.workers.captured import Captured
from tests.waiting import until
from workers.output import pump
from workers.output.capture import Capture
from workers.output.lines import CURRENT
from workers.output.pump import Pump

UMLAUT = "ä".encode()


def stdout() -> Any:
    """With what a type checker does not know that it has."""
    return sys.stdout


WRITES: dict[str, Callable[[], object]] = {
    "buffer": lambda: sys.stdout.buffer.write(b"x" + UMLAUT + b"\n"),
    "bytes": lambda: [sys.stdout.buffer.write(bytes([one])) for one in b"x" + UMLAUT + b"\n"],
    "raw": lambda: [stdout().buffer.raw.write(one) for one in (b"x\xc3", b"\xa4\n")],
    "lines of bytes": lambda: sys.stdout.buffer.writelines([b"x\xc3", b"\xa4\n"]),
    "memoryview": lambda: sys.stdout.buffer.write(memoryview(b"x" + UMLAUT + b"\n")),
    "lines": lambda: sys.stdout.writelines(["x", "ä\n"]),
    "wrapper": lambda: io.TextIOWrapper(sys.stdout.buffer, "utf-8").write("xä\n"),
    "codecs": lambda: codecs.getwriter("utf-8")(sys.stdout.buffer).write("xä\n"),
    "detach": lambda: io.TextIOWrapper(stdout().detach(), "utf-8").write("xä\n"),
    "bytes and text": lambda: (sys.stdout.buffer.write(b"x"), print("ä")),
}


@pytest.mark.parametrize("name", WRITES)
def test_text_and_bytes_arrive_however_they_are_written(captured: Captured, name: str) -> None:
    captured.start()
    captured.as_agent(WRITES[name])
    captured.as_agent(lambda: print("after"))
    assert captured.texts() == [("a1", "xä"), ("a1", "after")]


def test_bytes_that_are_not_utf_8_are_escaped(captured: Captured) -> None:
    captured.start()
    captured.as_agent(lambda: sys.stdout.buffer.write(b"a\xffb\xc3"))
    captured.as_agent(lambda: print("!"))
    assert captured.texts() == [("a1", "a\\xffb\\xc3!")]


def test_the_stream_is_what_programs_expect_of_one(captured: Captured) -> None:
    captured.start()
    seen: dict[str, Any] = {}

    def look() -> None:
        out = sys.stdout
        assert isinstance(out, io.TextIOWrapper)
        assert isinstance(out.buffer, io.BufferedWriter)
        assert isinstance(out.buffer.raw, io.RawIOBase)
        seen.update(
            tty=out.isatty(), name=out.name, encoding=out.encoding, mode=out.mode,
            readable=out.readable(), writable=out.writable(), seekable=out.seekable(),
            closed=out.closed,
        )  # fmt: skip
        for call in (out.tell, out.read, lambda: stdout().write(b"bytes")):
            with pytest.raises((OSError, TypeError)):
                call()

    captured.as_agent(look)
    assert seen == {
        "tty": False, "name": "<stdout>", "encoding": "utf-8", "mode": "w", "readable": False,
        "writable": True, "seekable": False, "closed": False,
    }  # fmt: skip


def test_an_agent_may_reconfigure_its_stream(captured: Captured) -> None:
    """Its neighbours, and the log file, go on in UTF-8."""
    captured.start()

    def reconfigure() -> None:
        assert isinstance(sys.stdout, io.TextIOWrapper)
        sys.stdout.reconfigure(line_buffering=True, newline="\n")
        sys.stdout.reconfigure(encoding="latin-1", errors="replace")
        assert (sys.stdout.encoding, sys.stdout.errors) == ("iso8859-1", "replace")
        print("ä€")
        sys.stdout.buffer.write(b"\xe4\n")
        sys.stdout.reconfigure(encoding="ascii")
        with pytest.raises(UnicodeEncodeError):
            print("ä", end="")
        for bad in ({"encoding": "nonsense"}, {"errors": "nonsense"}, {"newline": "x"}):
            with pytest.raises((LookupError, ValueError)):
                stdout().reconfigure(**bad)

    captured.as_agent(reconfigure)
    captured.agent("a2").context().run(print, "ä€")
    assert captured.texts() == [("a1", "ä?"), ("a1", "ä"), ("a2", "ä€")]


def replace_by_a_buffer() -> None:
    sys.stdout = io.StringIO()


def replace_by_nothing() -> None:
    sys.stdout = None


def replace_and_close() -> None:
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, "utf-16")
    sys.stdout.close()


def close() -> None:
    sys.stdout.close()


def close_what_is_below() -> None:
    stdout().buffer.raw.close()
    sys.stdout.buffer.close()


def enter_and_leave() -> None:
    with sys.stdout:
        pass


def detach() -> None:
    stdout().detach()


def delete() -> None:
    with contextlib.suppress(AttributeError):
        del sys.stdout


def replace_a_method() -> None:
    stdout().write = len
    stdout().flush = lambda: None


def replace_a_method_below() -> None:
    with contextlib.suppress(AttributeError):
        stdout().buffer.write = len
    with contextlib.suppress(AttributeError):
        stdout().buffer.raw.write = len
    stdout().close()


def close_the_descriptor() -> None:
    os.close(sys.stdout.fileno())


def dispose_of_the_descriptor() -> None:
    sys.stdout = os.fdopen(sys.stdout.fileno(), "w", encoding="utf-8", buffering=1)
    sys.stdout.close()


def set_to_a_broken_one() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise RuntimeError("no")

    sys.stdout = Broken()


@pytest.mark.parametrize(
    "damage",
    [replace_by_a_buffer, replace_by_nothing, replace_and_close, close, close_what_is_below,
     enter_and_leave, detach, delete, set_to_a_broken_one, replace_a_method,
     replace_a_method_below, close_the_descriptor, dispose_of_the_descriptor],
)  # fmt: skip
def test_what_an_agent_does_to_its_stream_silences_no_other(
    captured: Captured, damage: Callable[[], object]
) -> None:
    captured.start()
    captured.as_agent(damage)
    captured.agent("a2").context().run(print, "heard")
    print("of the worker")
    assert captured.texts() == [("a2", "heard"), ("", "of the worker")]


def test_a_redirected_stream_is_the_agents_own(captured: Captured) -> None:
    captured.start()
    neighbour = captured.agent("a2").context()
    kept = io.StringIO()

    def redirect() -> None:
        with contextlib.redirect_stdout(kept):
            print("kept")
            neighbour.run(print, "heard")
        print("after")

    captured.as_agent(redirect)
    assert kept.getvalue() == "kept\n"
    assert captured.texts() == [("a2", "heard"), ("a1", "after")]


def test_a_stream_may_be_wrapped(captured: Captured) -> None:
    """The wrapper writes to the stream that it found: that must not lead back to the wrapper."""
    captured.start()

    class Tee:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def write(self, text: str) -> int:
            return int(self.stream.write(text.upper()))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

    def wrap() -> None:
        sys.stdout = Tee(sys.stdout)
        print("wrapped")
        sys.stdout = sys.stdout.stream
        print("plain")

    captured.as_agent(wrap)
    assert captured.texts() == [("a1", "WRAPPED"), ("a1", "plain")]


def test_a_method_that_an_agent_replaces_is_used_for_it_alone(captured: Captured) -> None:
    captured.start()

    def shout() -> None:
        write = sys.stdout.write
        stdout().write = lambda text: write(text.upper())
        print("aloud")

    captured.as_agent(shout)
    captured.agent("a2").context().run(print, "quietly")
    assert captured.texts() == [("a1", "ALOUD"), ("a2", "quietly")]


def test_the_descriptor_of_a_stream_is_the_agents(captured: Captured) -> None:
    """As programs use it that want no buffer; it may be closed, and there is another then."""
    captured.start()

    def unbuffered() -> None:
        with os.fdopen(sys.stdout.fileno(), "wb", buffering=0) as raw:
            raw.write(b"raw\n")
        os.write(sys.stdout.fileno(), b"another\n")

    captured.as_agent(unbuffered)
    captured.wait_for(2)
    assert sorted(captured.texts()) == [("a1", "another"), ("a1", "raw")]


def test_a_log_file_that_others_remove_is_made_again(captured: Captured) -> None:
    captured.start()
    captured.as_agent(lambda: print("gone"))
    captured.output.file.path.unlink()
    Capture.check()
    captured.as_agent(lambda: print("heard"))
    assert captured.texts() == [("a1", "heard")]


def test_the_next_incarnation_does_not_meet_what_one_replaced(captured: Captured) -> None:
    captured.start()
    captured.as_agent(replace_by_a_buffer)
    captured.owner = captured.agent("a1")
    captured.as_agent(lambda: print("heard"))
    assert captured.texts() == [("a1", "heard")]


def test_what_is_replaced_past_the_attribute_is_put_back(captured: Captured) -> None:
    captured.start()
    sys.__dict__["stdout"] = io.StringIO()
    Capture.check()
    captured.as_agent(lambda: print("heard"))
    assert captured.texts() == [("", "output.restored"), ("a1", "heard")]
    assert CURRENT.get() is None


async def test_a_descriptor_that_an_agent_has_closed_is_not_polled_any_more() -> None:
    """It would be ready for ever, and take a whole core."""
    reader, (closed, _), (other, end) = Pump(), os.pipe(), os.pipe()
    received: list[bytes] = []

    def receive(data: bytes) -> bool:
        received.append(data)
        return False

    for descriptor in (closed, other):
        reader.read(descriptor, receive)
    os.close(closed)
    os.write(end, b"x")
    await until(lambda: closed not in reader._readers, what="it is forgotten")
    assert received == [b"x"]
    reader.close()


def test_the_last_words_of_a_process_of_an_agent_are_written(captured: Captured) -> None:
    """It had not ended its line, and they came when the agent had ended, and the worker ended."""
    end = captured.output.descriptor(captured.owner, "stdout")
    os.write(end, b"a line\nno newline")
    captured.output.flush(captured.owner)
    captured.output.close()
    assert captured.texts() == [("a1", "a line"), ("a1", "no newline")]


def test_an_output_that_is_closed_leaves_no_descriptor(captured: Captured) -> None:
    """A process whose workers come and go would run out of them."""
    before = set(Path("/dev/fd").iterdir())
    captured.output.printed(captured.owner, "stdout").add("part")
    captured.wait_for(1)
    captured.output.close()
    assert set(Path("/dev/fd").iterdir()) == before


def test_what_is_printed_where_no_thread_is_left_is_written_with_its_line(
    captured: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(pump, "start_thread", refuse)
        captured.start()
        captured.as_agent(lambda: print("one"))
        before = len(list(Path("/proc/self/fd").iterdir()))
        for name in ("two", "three"):
            captured.output.pump.watch(lambda: False)
            captured.as_agent(partial(print, name))
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    captured.as_agent(lambda: print("four", end=""))
    captured.output.pump.watch(lambda: False)
    assert captured.output.pump.running
    assert [line["message"] for line in captured.wait_for(4)] == ["one", "two", "three", "four"]
