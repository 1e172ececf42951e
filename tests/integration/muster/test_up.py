"""`muster up` starts: it waits for Redis and for roles that do, and can be stopped meanwhile."""

import asyncio
import errno
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from eventstore.errors import ConfigurationError, LogUnreachable, OutcomeUnknown
from muster.fallback.handover import Handover
from muster.fallback.last_seen import Recorder
from muster.process import roles, running_file
from muster.process.atomic_file import write_json
from muster.process.child import Child
from muster.process.roles import RoleStatus
from muster.settings.loading import load
from muster.up import role_processes, up
from muster.up.background import Background
from muster.up.log_server import LogServer
from muster.up.role_processes import RoleParts, RoleProcesses
from muster.up.up import data_folder_lock
from tests.conftest import MakeServer
from tests.process import free_port
from tests.waiting import until

LATE = """\
import os, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
os.write(int(os.environ["MUSTER_READY_FD"]), b'{"ready": true, "url": "http://127.0.0.1:9"}\\n')
time.sleep(60)
"""


class Starting:
    """Role processes of which one is ready once a file is there."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.go = folder / "go"
        command = [sys.executable, "-c", LATE, str(self.go)]
        settings = replace(load({"data_dir": folder}, {}), redis_url=redis_url)
        self.background = Background()
        self.roles: Any = RoleProcesses(settings, self.background)
        self.child = Child("gateway", command, {}, folder / "gateway.err")
        self.roles._children["gateway"] = self.child


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role_processes, "READY_SECONDS", 0.3)
    monkeypatch.setattr(role_processes, "START_RETRY_SECONDS", (0.01, 0.02))


async def test_a_role_that_waits_for_redis_is_waited_for(
    tmp_path: Path,
    redis_server: MakeServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = redis_server()
    starting = Starting(tmp_path, server.url)
    server.stop()
    task = asyncio.ensure_future(starting.roles._start_role("gateway"))
    await asyncio.sleep(1.0)  # longer than a role has
    assert not task.done()
    monkeypatch.setattr(role_processes, "READY_SECONDS", 20.0)  # from here on it comes
    starting.go.touch()
    server.start()
    assert await task == "http://127.0.0.1:9"
    assert capsys.readouterr().out.count("waiting for it") == 1
    await starting.child.stop(5)


async def test_a_role_that_waits_for_a_redis_that_refuses_writes_is_waited_for(
    tmp_path: Path,
    redis_server: MakeServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a supervisor does, which joins; INFO is answered."""
    server = redis_server()
    starting = Starting(tmp_path, server.url)
    with server.unwritable():
        task = asyncio.ensure_future(starting.roles._start_role("gateway"))
        await until(lambda: task.done() or "waiting for it" in capsys.readouterr().out)
        assert not task.done()
        monkeypatch.setattr(role_processes, "READY_SECONDS", 20.0)  # from here on it comes
        starting.go.touch()
    assert await task == "http://127.0.0.1:9"
    await starting.child.stop(5)


async def test_a_role_that_is_silent_for_another_reason_is_restarted_a_few_times(
    tmp_path: Path, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    starting = Starting(tmp_path, redis_url)
    with pytest.raises(ConfigurationError, match="gateway: it was not ready after"):
        await starting.roles._start_role("gateway")
    assert capsys.readouterr().out.count("; starting it again in") == len(
        role_processes.START_RETRY_SECONDS
    )
    await starting.child.stop(5)


@pytest.mark.parametrize("luck", ["killed", "refused"])
async def test_a_role_with_a_transient_failure_is_restarted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    luck: str,
) -> None:
    """Killed for want of memory before it reports, or given no process; the next time it starts."""
    starting = Starting(tmp_path, "")
    starting.go.touch()
    monkeypatch.setattr(role_processes, "READY_SECONDS", 20.0)
    launch, tried = starting.child._launch, 0

    def unlucky() -> None:
        nonlocal tried
        tried += 1
        if tried == 1 and luck == "refused":
            raise BlockingIOError(11, "Resource temporarily unavailable")
        launch()
        if tried == 1:
            os.kill(starting.child.pid, signal.SIGKILL)

    monkeypatch.setattr(starting.child, "_launch", unlucky)
    assert await starting.roles._start_role("gateway") == "http://127.0.0.1:9"
    why = {"killed": "it ended at once", "refused": "Resource temporarily unavailable"}[luck]
    [said] = [said for said in capsys.readouterr().out.splitlines() if "starting it again" in said]
    assert why in said
    assert tried == 2
    await starting.child.stop(5)


async def test_an_error_that_a_role_reports_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is wrong, whoever starts it again."""
    starting = Starting(tmp_path, "")
    starts: list[float] = []

    async def start(seconds: float) -> RoleStatus:
        starts.append(seconds)
        return RoleStatus(failed="no such class")

    monkeypatch.setattr(starting.child, "start", start)
    with pytest.raises(ConfigurationError, match="gateway: no such class"):
        await starting.roles._start_role("gateway")
    assert len(starts) == 1


async def test_a_start_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role_processes, "ROLES", ("gateway",))
    monkeypatch.setattr(role_processes, "READY_SECONDS", 60.0)
    starting = Starting(tmp_path, f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setattr(role_processes, "Child", lambda *_: starting.child)
    task = asyncio.ensure_future(starting.roles.start())
    await until(lambda: starting.child.awaiting_status)
    starting.background.stopping.set()
    async with asyncio.timeout(10):
        assert await task == ""
    await starting.roles.stop()
    assert starting.child.code is not None


class Enough(Exception):
    """Nothing is started."""


async def test_its_roles_run_on_the_embedded_server_whatever_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They read the same file and environment, and would write to another system's database."""
    config = tmp_path / "muster.toml"
    config.write_text("embedded = true\ndatabase_url = 'postgresql://file'\n")
    monkeypatch.setenv("MUSTER_PGBOUNCER_URL", "postgresql://environment")
    monkeypatch.setenv("MUSTER_REDIS_URL", "redis://environment")
    environments: list[dict[str, str]] = []

    def child(_role: str, _command: list[str], environment: dict[str, str], _log: Path) -> None:
        environments.append(environment)
        raise Enough

    monkeypatch.setattr(role_processes, "Child", child)
    settings = load({"config": config, "data_dir": tmp_path}, os.environ)
    with pytest.raises(Enough):
        await RoleProcesses(replace(settings, redis_url="unix:///its-own"), Background()).start()
    role = load({}, environments[0])
    assert (role.redis_url, role.database_url, role.pgbouncer_url) == ("unix:///its-own", "", "")


async def test_the_end_of_a_terminal_is_not_its_end_under_nohup(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        up.Up(load({"data_dir": tmp_path}, {}))._handle_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


# ---- before there are roles ------------------------------------------------------------------


def log_server_on(folder: Path, redis_url: str) -> LogServer:
    return LogServer(replace(load({"data_dir": folder}, {}), redis_url=redis_url), Background())


async def test_a_redis_that_refuses_writes_is_waited_for(
    tmp_path: Path, redis_server: MakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with a full disk: INFO is answered, and a first start has a log to begin."""
    server = redis_server()
    log_server: Any = log_server_on(tmp_path, server.url)
    said = ""

    def has_said(text: str) -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return text in said

    with server.unwritable():
        with pytest.raises(LogUnreachable, match="MISCONF"):
            await log_server._check_redis()
        task = asyncio.ensure_future(log_server._prepare())
        await until(lambda: task.done() or has_said("waiting for it"))
        assert not task.done()
    assert await task
    assert has_said("Redis answers")
    assert said.count("waiting for it") == 1


@pytest.mark.parametrize("step", ["check", "prepare", "refresh"])
async def test_every_call_of_a_start_is_retried_while_redis_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It may go, or load, or be full, between two questions."""
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


# ---- parts of this process -------------------------------------------------------------------


class Scripted:
    """A part whose starts come to what the test says; the last one again and again."""

    url = "http://127.0.0.1:9"

    def __init__(self, *starts: Callable[[], Awaitable[None]]) -> None:
        self.starts = list(starts)
        self.started = self.stopped = 0

    async def start(self) -> None:
        self.started += 1
        await (self.starts.pop(0) if self.starts[1:] else self.starts[0])()

    async def stop(self) -> None:
        self.stopped += 1


async def _unreachable() -> None:
    raise LogUnreachable("Redis does not answer")


async def _unknown() -> None:
    raise OutcomeUnknown("Redis did not answer")


async def _serves() -> None:
    pass


async def _hangs() -> None:
    await asyncio.Event().wait()


def role_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, part: Scripted, background: Background
) -> Any:
    monkeypatch.setattr("muster.up.role_processes.ROLES", ("supervisor",))
    monkeypatch.setattr(roles, "build", lambda *_: part)
    return RoleParts(load({"data_dir": folder}, {}), background, None)


async def test_a_part_that_cannot_start_without_redis_starts_once_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a supervisor, which joins."""
    part = Scripted(_unreachable, _unknown, _serves)
    parts = role_parts(tmp_path, monkeypatch, part, Background())
    assert await parts.start() == part.url
    assert parts._parts == [part]
    assert part.stopped == 2, "whatever it had started"
    assert capsys.readouterr().out.count("waiting for it") == 1


@pytest.mark.parametrize("start", [_unreachable, _hangs])
async def test_a_stop_is_noticed_while_a_part_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[], Awaitable[None]]
) -> None:
    part = Scripted(start)
    background = Background()
    parts = role_parts(tmp_path, monkeypatch, part, background)
    task = asyncio.ensure_future(parts.start())
    await until(lambda: part.started)
    background.stopping.set()
    async with asyncio.timeout(10):
        assert await task == ""
    assert part.stopped == part.started


# ---- on a full disk --------------------------------------------------------------------------


def _no_space(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_data_folder_that_is_full_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands find it once there is room."""
    starting: Any = up.Up(load({"data_dir": tmp_path}, {}))
    url, noted = "http://127.0.0.1:9", tmp_path / "running.json"

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
    said = ""

    def has_said(text: str) -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return text in said

    await until(lambda: task.done() or has_said("No space left on device): until it can"))
    assert not task.done()
    full = False
    await until(noted.exists)
    await until(lambda: has_said("running.json is written"))
    assert said.count("No space") == 2, "to a person, and in the log"
    starting._background.stopping.set()
    assert await task == 0
    assert not noted.exists()


def test_a_data_folder_is_locked_even_if_its_owner_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", _no_space)
    with (
        data_folder_lock(tmp_path),
        pytest.raises(ConfigurationError, match="in use by `muster up` with pid unknown"),
        data_folder_lock(tmp_path),
    ):
        raise AssertionError("two hold it")
