"""Ending what an agent has started, where the system lists no processes."""

import os
import subprocess

import pytest

from workers.output.lines import Owner
from workers.runtime import children
from workers.runtime.child_records import STARTED, Started


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
