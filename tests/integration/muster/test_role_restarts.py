"""`muster up` restarts a role whose process ends."""

import asyncio
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from muster.process import restarts
from muster.process.child import Child
from muster.process.forked_roles import ForkedRole
from muster.settings.loading import load
from muster.up import role_processes
from muster.up.background import Background
from tests.waiting import until

READY = """\
import os, time
os.write(int(os.environ["MUSTER_READY_FD"]), b'{"ready": true, "url": "http://127.0.0.1:9"}\\n')
time.sleep(60)
"""
HALF = """\
import os
os.write(int(os.environ["MUSTER_READY_FD"]), b'{"ready": tr')
"""


class Role:
    """A gateway whose program is what the test writes."""

    def __init__(self, folder: Path) -> None:
        self.program = folder / "role"
        self.child = Child("gateway", [str(self.program)], dict(os.environ), folder / "role.err")
        self.ending = asyncio.Event()
        self.messages: list[str] = []

    def write(self, text: str) -> None:
        new = self.program.with_suffix(".new")
        new.write_text(f"#!{sys.executable}\n{text}")
        new.chmod(0o700)
        new.replace(self.program)

    async def start(self) -> None:
        self.write(READY)
        assert (await self.child.start(10)).ready
        processes: Any = role_processes.RoleProcesses(load({}, {}), Background())
        processes._children["gateway"] = self.child
        restart = functools.partial(processes._restart, "gateway")
        self.restarting = asyncio.ensure_future(
            restarts.restart_on_exit(self.child, restart, self.ending, self.messages.append)
        )

    async def reports(self, text: str) -> None:
        await until(lambda: any(text in message for message in self.messages), what=text)

    async def end(self) -> None:
        self.ending.set()
        await self.child.stop(5)
        await asyncio.wait_for(self.restarting, 10)


@pytest.fixture
async def role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_pauses: None
) -> AsyncIterator[Role]:
    monkeypatch.setattr(role_processes, "READY_SECONDS", 10)
    made = Role(tmp_path)
    await made.start()
    yield made
    await made.end()


async def test_a_role_that_dies_while_it_reports_is_restarted(role: Role) -> None:
    role.write(HALF)
    os.kill(role.child.pid, signal.SIGKILL)
    await role.reports("gateway could not be started: its report cannot be read")
    role.write(READY)
    await role.reports("gateway is running again")


async def test_a_role_that_the_system_cannot_fork_is_restarted(role: Role) -> None:
    role.program.unlink()
    os.kill(role.child.pid, signal.SIGKILL)
    await role.reports("gateway could not be started: it cannot be started: [Errno 2]")
    role.write(READY)
    await role.reports("gateway is running again")


async def test_a_role_whose_process_dies_during_its_start_is_restarted(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork(*_: Any, **__: Any) -> Any:
        raise subprocess.SubprocessError("Exception occurred in preexec_fn.")

    with monkeypatch.context() as broken:
        broken.setattr("muster.process.child.subprocess.Popen", fork)
        os.kill(role.child.pid, signal.SIGKILL)
        await role.reports("gateway could not be started: it cannot be started: Exception occurred")
    await role.reports("gateway is running again")


async def test_a_role_is_not_started_after_a_stop_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would still run when all others have been stopped."""
    monkeypatch.setattr(restarts, "RESTART_SECONDS", (60.0, 60.0))
    role = Role(tmp_path)
    await role.start()
    pid = role.child.pid
    os.kill(pid, signal.SIGKILL)
    await role.reports("starting it again in")
    await role.end()
    assert role.child.pid == pid


async def test_a_forked_role_that_has_ended_before_it_begins_is_started_by_its_command(
    role: Role, tmp_path: Path
) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    forked = ForkedRole(pid, ours)
    child = Child("gateway", [str(role.program)], dict(os.environ), tmp_path / "err", forked)
    assert "it cannot be started: [Errno 32]" in (await child.start(10)).failed
    assert await child.stop(1)
    assert (await child.start(10)).ready
    assert child.pid != pid
    await child.stop(5)
