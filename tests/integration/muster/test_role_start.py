"""`muster up` starts its roles: it waits for those that wait for Redis, and retries others."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from eventstore.errors import ConfigurationError
from muster.process.child import Child
from muster.process.roles import RoleStatus
from muster.settings.loading import load
from muster.up import role_processes
from muster.up.background import Background
from muster.up.role_processes import RoleProcesses
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
    """Role processes of which one is ready once a file exists."""

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
    await asyncio.sleep(1.0)  # longer than a role may take
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
    """Such as a supervisor, which must join. Redis answers INFO."""
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


async def test_a_role_that_is_stopped_before_it_serves_is_not_said_to_serve(
    tmp_path: Path, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another one could not be started."""
    starting = Starting(tmp_path, redis_url)
    starting.background.stopping.set()
    assert await starting.roles._start_role("gateway") == ""
    assert "gateway" not in capsys.readouterr().out
    await starting.child.stop(5)


@pytest.mark.parametrize("failure", ["killed", "refused"])
async def test_a_role_with_a_transient_failure_is_restarted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: str,
) -> None:
    """Killed before it reports, as without memory, or not forked; the second start succeeds."""
    starting = Starting(tmp_path, "")
    monkeypatch.setattr(role_processes, "READY_SECONDS", 20.0)
    launch, tried = starting.child._launch, 0

    def fail_once() -> None:
        nonlocal tried
        tried += 1
        if tried == 1 and failure == "refused":
            raise BlockingIOError(11, "Resource temporarily unavailable")
        launch()
        if tried > 1:
            starting.go.touch()  # not before: the first one would report if it is killed late
        else:
            os.kill(starting.child.pid, signal.SIGKILL)

    monkeypatch.setattr(starting.child, "_launch", fail_once)
    assert await starting.roles._start_role("gateway") == "http://127.0.0.1:9"
    why = {"killed": "it ended at once", "refused": "Resource temporarily unavailable"}[failure]
    [line] = [line for line in capsys.readouterr().out.splitlines() if "starting it again" in line]
    assert why in line
    assert tried == 2
    await starting.child.stop(5)


async def test_an_error_that_a_role_reports_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start would fail too."""
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


async def test_roles_use_the_embedded_server_whatever_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They read the same file and environment, and would write to another system's database."""
    config = tmp_path / "muster.toml"
    config.write_text("embedded = true\ndatabase_url = 'postgresql://file'\n")
    monkeypatch.setenv("MUSTER_PGBOUNCER_URL", "postgresql://environment")
    monkeypatch.setenv("MUSTER_REDIS_URL", "redis://environment")
    environments: list[dict[str, str]] = []

    def child(_role: str, _command: list[str], environment: dict[str, str], *_: Any) -> None:
        environments.append(environment)
        raise Enough

    monkeypatch.setattr(role_processes, "Child", child)
    settings = load({"config": config, "data_dir": tmp_path}, os.environ)
    with pytest.raises(Enough):
        await RoleProcesses(replace(settings, redis_url="unix:///its-own"), Background()).start()
    role = load({}, environments[0])
    assert (role.redis_url, role.database_url) == ("unix:///its-own", "")
