"""Ending what an agent has started, and collecting exit codes that are not waited for."""

import asyncio
import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from tests.waiting import until
from workers.output.lines import Owner
from workers.runtime import children
from workers.runtime.child_records import STARTED, Started
from workers.runtime.worker_loop import Loop


@pytest.mark.parametrize("grace", [True, False])
async def test_without_a_list_of_processes_those_started_here_are_ended(
    monkeypatch: pytest.MonkeyPatch, grace: bool
) -> None:
    """As on macOS, where Python has no `waitid` before 3.13 either."""
    monkeypatch.delattr(os, "waitid")
    monkeypatch.setattr(children, "all_processes", dict)
    monkeypatch.setattr("workers.host.processes.HAS_PROC", False)
    owner, other = Owner({}), Owner({})
    processes = [subprocess.Popen(["sleep", "900"]) for _ in range(3)]
    for process, one in zip(processes, (owner, owner, other), strict=True):
        STARTED[process.pid] = Started(one)
    processes[0].kill()
    assert await children.end_children(owner, grace=grace)
    assert processes[2].poll() is None
    children.collect_adopted()
    assert await children.end_children(other, grace=False)
    for process in processes:
        process.wait(5)
    assert not STARTED.keys() & {process.pid for process in processes}


def test_exit_codes_are_left_to_the_loop_that_waits_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a stall, several looks come in one turn, before the loop hears of a child's end."""
    monkeypatch.setattr(children, "ADOPTED_SECONDS", 0.0)

    async def exit_code() -> int:
        starting = asyncio.ensure_future(asyncio.create_subprocess_exec("false"))
        await asyncio.sleep(0)
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        for _ in range(3):
            children.collect_adopted()
        async with asyncio.timeout(5):
            return await (await starting).wait()

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert runner.run(exit_code()) == 1


async def test_exit_codes_that_are_not_waited_for_are_collected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of a process whose parent has ended, or of one that a library in C has started."""
    libc = ctypes.CDLL(None)
    pid = libc.fork()
    if pid == 0:
        libc._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    children.collect_adopted()
    await asyncio.sleep(0.05)
    assert Path(f"/proc/{pid}").exists(), "it may still be waited for"
    monkeypatch.setattr(children, "ADOPTED_SECONDS", 0.0)
    children.collect_adopted()
    await until(lambda: not Path(f"/proc/{pid}").exists())
