"""Which process a pid means."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workers.host import processes
from workers.host.processes import Process, start_time


async def test_a_process_that_ended_before_the_check_has_ended() -> None:
    """Its start is not known then, and its pid may be another's one day."""
    child = await asyncio.create_subprocess_exec("true")
    await child.wait()
    process = Process(child.pid, start_time(child.pid))
    assert not process.alive()
    ended = asyncio.Event()
    process.watch(ended.set)
    async with asyncio.timeout(10):
        await ended.wait()
    assert Process(os.getpid(), start_time(os.getpid())).alive()


def test_a_process_that_cannot_be_checked_does_not_count_as_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker without free file descriptors would otherwise think that its owner is dead."""
    process = Process(os.getpid(), start_time(os.getpid()))

    def refuse(_: Path, **__: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert process.alive()


async def test_without_a_pidfd_a_process_is_watched_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    child = await asyncio.create_subprocess_exec("sleep", "60")
    process = Process(child.pid, start_time(child.pid))
    ended = asyncio.Event()
    process.watch(ended.set)
    assert process.signal(signal.SIGKILL)
    async with asyncio.timeout(10):
        await ended.wait()
    await child.wait()


def test_the_end_of_a_process_is_seen_without_reading_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        ended = Process(child.pid, start_time(child.pid)).end_check()
        with monkeypatch.context() as patch:
            patch.setattr(processes, "start_time", lambda _: 0)
            assert [ended() for _ in range(3)] == [False] * 3
    assert ended()
    assert Process(child.pid, 1).end_check()()
