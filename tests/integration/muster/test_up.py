"""`muster up` itself: it waits for Redis, survives a full disk, and locks its data folder."""

import asyncio
import errno
import functools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from eventstore.atomic_file import write_json
from eventstore.errors import ConfigurationError, LogUnreachable
from muster.fallback.handover import Handover
from muster.fallback.last_seen import Recorder
from muster.process import running_file
from muster.process.child import Child, reap_orphans
from muster.settings.loading import load
from muster.up import up
from muster.up.background import Background
from muster.up.log_server import LogServer
from muster.up.role_processes import RoleParts, RoleProcesses
from muster.up.up import data_folder_lock
from tests.conftest import MakeServer
from tests.integration.muster.terminal import Terminal
from tests.process import free_port
from tests.waiting import until


async def test_under_nohup_it_survives_the_end_of_its_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        up.Up(load({"data_dir": tmp_path}, {}))._handle_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


WITH_A_CHILD = """\
import os, pathlib, subprocess, time
child = subprocess.Popen(["sleep", "60"])
pathlib.Path("child").write_text(str(child.pid))
os.write(int(os.environ["MUSTER_READY_FD"]), b'{"ready": true}\\n')
time.sleep(60)
"""


def ended(pid: int) -> bool:
    """Whether it runs no more; its exit code is for the system's init to collect."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One that was asked to end, on a system that does not list processes, such as macOS."""
    monkeypatch.setattr(up, "descendants", lambda _: [])
    made = up.Up(load({"data_dir": tmp_path}, {}))
    made._on_signal(signal.SIGINT)
    return made


async def test_a_second_signal_ends_what_roles_have_started_where_nothing_lists_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signalled: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    roles: Any = RoleProcesses(load({"data_dir": tmp_path}, {}), signalled._background)
    command = [sys.executable, "-c", WITH_A_CHILD]
    child = Child("gateway", command, dict(os.environ), tmp_path / "err")
    roles._children["gateway"], signalled._roles = child, roles
    try:
        assert (await child.start(10)).ready
        grandchild = int((tmp_path / "child").read_text())
        signalled._on_signal(signal.SIGINT)
        await until(lambda: child.code is not None and ended(grandchild))
    finally:
        await child.stop(0.0)


def test_a_second_signal_ends_a_single_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signalled: Any
) -> None:
    """Its agents would be waited for: there is no process of theirs to be killed."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    running_file.write(tmp_path, running_file.Running())
    signalled._roles = RoleParts(load({"data_dir": tmp_path}, {}), signalled._background, None)
    signalled._on_signal(signal.SIGINT)
    assert codes == [up.EXIT_AT_ONCE]
    assert not (tmp_path / running_file.NAME).exists()


def test_where_the_system_has_no_waitid_ended_roles_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on macOS before Python 3.13: to ask for them is what collects them."""
    asked = 0

    def managed() -> set[int]:
        nonlocal asked
        asked += 1
        return set()

    monkeypatch.delattr(os, "waitid")
    reap_orphans(managed)
    assert asked == 1


def log_server_on(folder: Path, redis_url: str) -> LogServer:
    return LogServer(replace(load({"data_dir": folder}, {}), redis_url=redis_url), Background())


async def test_a_redis_that_refuses_writes_is_waited_for(
    tmp_path: Path, redis_server: MakeServer, terminal: Terminal
) -> None:
    """As with a full disk: INFO is answered, and a first start has to write a log."""
    server = redis_server()
    log_server: Any = log_server_on(tmp_path, server.url)
    with server.unwritable():
        with pytest.raises(LogUnreachable, match="MISCONF"):
            await log_server._check_redis()
        task = asyncio.ensure_future(log_server._prepare())
        await until(lambda: task.done() or "waiting for it" in terminal.text)
        assert not task.done()
    assert await task
    assert "Redis answers" in terminal.text
    assert terminal.text.count("waiting for it") == 1


@pytest.mark.parametrize("step", ["check", "prepare", "refresh"])
async def test_every_call_of_a_start_is_retried_while_redis_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It may end, load or be full between two calls."""
    log_server: Any = log_server_on(tmp_path, f"redis://127.0.0.1:{free_port()}/0")
    asked: list[str] = []

    def answer(name: str) -> Any:
        async def ask(*_: Any, **__: Any) -> bool:
            asked.append(name)
            if asked.count(step) == 1 and name == step:
                raise LogUnreachable("Redis is not ready: LOADING")
            return True

        return ask

    monkeypatch.setattr("muster.up.log_server.prepare", answer("prepare"))
    monkeypatch.setattr(Handover, "check", answer("check"))
    monkeypatch.setattr(Recorder, "refresh", answer("refresh"))
    monkeypatch.setattr(Recorder, "follow", answer("follow"))
    assert await log_server._hand_over()
    await asyncio.gather(*log_server._background._tasks)
    assert asked.count(step) == 2
    assert list(dict.fromkeys(asked)) == ["check", "prepare", "refresh", "follow"]


def _no_space(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_data_folder_that_is_full_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: Terminal
) -> None:
    """Commands find the system once there is space."""
    starting: Any = up.Up(load({"data_dir": tmp_path}, {}))
    url, written = "http://127.0.0.1:9", tmp_path / "running.json"

    async def answer(value: Any, *_: Any) -> Any:
        return value

    monkeypatch.setattr(LogServer, "start", functools.partial(answer, True))
    monkeypatch.setattr(RoleProcesses, "start", functools.partial(answer, url))
    monkeypatch.setattr(running_file, "RETRY_SECONDS", 0.01)
    full = True

    def write(path: Path, value: object) -> None:
        if full:
            _no_space()
        write_json(path, value)

    monkeypatch.setattr(running_file, "write_json", write)
    task = asyncio.ensure_future(starting.run())
    refused = "No space left on device): until it can"
    await until(lambda: task.done() or refused in terminal.text)
    assert not task.done()
    full = False
    await until(written.exists)
    await until(lambda: "running.json is written" in terminal.text)
    assert terminal.text.count("No space") == 2, "to the user, and in the log"
    starting._background.stopping.set()
    assert await task == 0
    assert not written.exists()


def test_a_data_folder_is_locked_even_if_its_owner_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", _no_space)
    with (
        data_folder_lock(tmp_path),
        pytest.raises(ConfigurationError, match="in use by `muster up` with pid unknown"),
        data_folder_lock(tmp_path),
    ):
        raise AssertionError("both have it")
