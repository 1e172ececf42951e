"""Whether a loop turns is observed from a thread, and where it hangs if it does not."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
import uvloop

from tests.waiting import until_sync
from workers.process import loop_watch
from workers.process.loop_watch import LoopWatch


def sleeps(release: threading.Event) -> None:
    while not release.is_set():
        time.sleep(0.01)


def computes(release: threading.Event) -> None:
    while not release.is_set():
        sum(range(1000))


def waits_for_a_lock(release: threading.Event) -> None:
    release.wait()


def reads_a_socket(release: threading.Event) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        threading.Thread(target=lambda: (release.wait(), theirs.send(b"x"))).start()
        ours.recv(1)


class Site:
    """A loop in a thread of its own, and its watch."""

    def __init__(
        self, new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    ) -> None:
        self.changes: list[str] = []
        self.task: asyncio.Task[Any] | None = None
        self.loop = new_loop()
        self.answers = 0
        self.watch = LoopWatch("w1", self.answer, self.agent_of, self.note)
        program = compile("run()", "<string>", "exec")  # as `python -c` runs a worker
        self.thread = threading.Thread(target=exec, args=(program, {"run": self.loop.run_forever}))
        self.thread.start()
        self.call(self.watch.start)

    def answer(self, _: float) -> bytes:
        self.answers += 1
        return b"{}"

    def agent_of(self, task: asyncio.Task[object]) -> str:
        return "a1" if task is self.task else ""

    def note(self) -> None:
        self.changes.append(self.watch.stalled_in)

    def call(self, function: Callable[[], object]) -> None:
        async def body() -> None:
            function()

        asyncio.run_coroutine_threadsafe(body(), self.loop).result(5)

    def block(self, how: Callable[[threading.Event], None], release: threading.Event) -> None:
        entered = threading.Event()

        async def body() -> None:
            self.task = asyncio.current_task()
            entered.set()
            how(release)

        self.loop.call_soon_threadsafe(lambda: self.loop.create_task(body()))
        entered.wait(5)

    def observe_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < until, "the condition was never true"
            self.watch.observe(1.0)
            time.sleep(0.02)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@contextmanager
def site_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(loop_watch, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(loop_watch, "GOOD_SECONDS", 0.2)
    site = Site()
    yield site
    site.close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site_of(monkeypatch) as made:
        yield made


@pytest.mark.parametrize("how", [sleeps, computes, waits_for_a_lock, reads_a_socket])
def test_a_stall_names_the_line_the_function_and_the_agent(
    site: Site, how: Callable[[threading.Event], None]
):
    release = threading.Event()
    with structlog.testing.capture_logs() as logs:
        site.block(how, release)
        site.observe_until(lambda: bool(site.watch.stalled_in))
        release.set()
        site.observe_until(lambda: not site.watch.stalled_in)
    stalled_in, ended = site.changes
    assert stalled_in.startswith(f"stalled in {__file__}:")
    assert stalled_in.endswith(f" {how.__name__} (agent a1)")
    assert ended == ""
    [line] = [line for line in logs if line["event"] == "worker.loop_stalled"]
    assert (line["log_level"], line["agent_id"], line["worker_id"]) == ("warning", "a1", "w1")
    assert any(entry.endswith(f" {how.__name__}") for entry in line["frames"])


def test_a_loop_that_gets_no_processor_names_no_place_in_the_program(site: Site):
    assert site.watch.place().text == loop_watch.OUTSIDE


def test_a_loop_that_turns_is_not_stalled(site: Site):
    for _ in range(20):
        site.watch.observe(1.0)
    assert site.changes == []


def test_the_end_of_an_import_is_no_stall(site: Site, monkeypatch: pytest.MonkeyPatch):
    """The loop has not turned yet when the worker is ready; it is asked again."""
    monkeypatch.setattr(loop_watch, "STALL_SECONDS", 0.4)
    site.call(lambda: site.watch.prepare("importing"))
    seen: list[str] = []

    def finish() -> None:
        site.watch.ask()
        time.sleep(0.5)
        site.watch.prepare("")
        site.watch.observe(1.0)
        seen.append(site.watch.stalled_in)

    site.call(finish)
    assert seen == [""]


def test_warnings_are_rate_limited(site: Site):
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            release = threading.Event()
            site.block(sleeps, release)
            site.observe_until(lambda: bool(site.watch.stalled_in))
            release.set()
            site.observe_until(lambda: not site.watch.stalled_in)
    assert [line["event"] for line in logs] == ["worker.loop_stalled"]
    assert len(site.changes) == 4


def test_a_thread_that_comes_late_reports_a_held_interpreter(site: Site):
    """A C call that holds the lock stalls the watch, too: it can only be seen afterwards."""
    site.watch.observe(1.0)
    with structlog.testing.capture_logs() as logs:
        time.sleep(0.15)
        site.watch.observe(0.01)
    [line] = logs
    assert line["event"] == "worker.process_stalled"
    assert line["seconds"] >= 0.1


def test_a_loop_that_waits_is_not_woken_and_one_that_hangs_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
):
    """In whatever it hangs: before each renewal it is asked anyway."""
    monkeypatch.setattr(loop_watch, "STALL_SECONDS", 0.1)
    site = Site(uvloop.new_event_loop)
    turns: list[str] = []
    site.watch.call(turns.append, "renewed")
    until_sync(lambda: "renewed" in turns)
    before = site.answers
    for _ in range(20):
        site.watch.observe(1.0)
    assert site.answers == before
    assert site.watch.look(0.0) == 0.0
    assert site.answers == before + 1, "the snapshot is of now"
    release = threading.Event()
    site.block(sleeps, release)
    site.observe_until(lambda: bool(site.watch.stalled_in))
    release.set()
    site.observe_until(lambda: site.watch.ask(0.1) == 0.0)
    site.changes.clear()
    site.loop.call_soon_threadsafe(release.clear)
    site.loop.call_soon_threadsafe(release.wait)  # code of C calls it, in no Python code
    site.watch.ask(0.1)
    monkeypatch.setattr(loop_watch, "GOOD_SECONDS", 0.0)
    site.observe_until(lambda: bool(site.watch.stalled_in))
    release.set()
    site.observe_until(lambda: not site.watch.stalled_in)
    site.close()
