"""`muster up` starts its server and its roles again until they run, and says what is wrong."""

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from msgspec.structs import replace

from eventstore.embedded.directory import find_binary, locked
from eventstore.embedded.server import EmbeddedServer
from eventstore.errors import LogUnreachable
from muster.process import restarts
from muster.process.child import Child
from muster.settings.loading import load
from muster.up import log_server, role_processes, up
from muster.up.background import Background
from muster.up.log_server import LogServer
from tests.full_disk import surviving, write_again, written_in_part
from tests.waiting import until, until_sync

SLOW_LOADING = {"key-load-delay": "500"}
"""Microseconds for each command of the append-only file."""
COMMANDS = 2_500


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "RESTART_SECONDS", (0.05, 0.05))
    monkeypatch.setattr(restarts, "FIRST_REPORT_SECONDS", 0.2)
    monkeypatch.setattr(role_processes, "READY_SECONDS", 0.5)


class Embedding:
    """A log's server, and no roles."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.background = Background()
        settings = replace(load({"data_dir": folder}, {}), redis_url="")
        self.log_server: Any = LogServer(settings, self.background)
        self.server = EmbeddedServer(folder / "redis", **options)
        self.aof = folder / "redis" / "appendonlydir"

    async def start(self) -> None:
        await self.log_server._start_embedded()

    def kill(self) -> int:
        pid = self.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid

    def fill(self) -> None:
        with redis.Redis.from_url(self.server.url) as client, client.pipeline() as pipe:
            for number in range(COMMANDS):
                pipe.set(f"key:{number}", number)
            pipe.execute()

    async def ends(self) -> None:
        """When it is asked to: a pause that it would wait for instead is a minute long."""
        self.background.stopping.set()
        await asyncio.wait_for(asyncio.gather(*self.background._tasks), 10)


@pytest.fixture
async def embedding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Embedding]]:
    made: list[Embedding] = []

    def make(**options: Any) -> Embedding:
        made.append(Embedding(tmp_path, **options))
        monkeypatch.setattr(log_server, "EmbeddedServer", lambda *_, **__: made[-1].server)
        return made[-1]

    yield make
    for one in made:
        one.background.stopping.set()
        await one.background.stop()
        one.server.stop()


async def test_a_server_that_cannot_be_started_again_is_tried_until_it_can(
    embedding, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a disk that is full for a while: the terminal says so."""
    embedded = embedding()
    await embedded.start()
    embedded.kill()
    hidden = embedded.aof.rename(embedded.aof.with_name("hidden"))
    embedded.aof.write_text("in the way")
    said = ""

    def has_said(text: str) -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return text in said

    await until(lambda: has_said("redis ended with code 1"), what="it says why")
    assert "redis ended (killed by signal 9" in said
    assert f"Not a directory; see {embedded.server.log_path}; starting it again" in said
    embedded.aof.unlink()
    hidden.rename(embedded.aof)
    await until(lambda: has_said("redis is running again"))
    assert said.count("redis ended with code 1") == 1, said
    await embedded.ends()


async def test_a_server_whose_folder_is_in_use_waits_for_the_others_end(
    embedding, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the child that rewrites the file of a server that was killed."""
    embedded = embedding()
    await embedded.start()
    with locked(embedded.server.directory) as acquired:
        assert acquired is None
    pid = embedded.server.pid
    embedded.kill()
    with contextlib.ExitStack() as acquired:
        until_sync(lambda: acquired.enter_context(locked(embedded.server.directory)) is not None)
        await until(lambda: f"another server (pid {pid}) runs on" in capsys.readouterr().out)
    await until(lambda: embedded.server.pid not in (None, pid))
    await embedded.ends()


@pytest.mark.parametrize(
    "error",
    [
        BlockingIOError(11, "Resource temporarily unavailable"),
        subprocess.SubprocessError("Exception occurred in preexec_fn."),
    ],
    ids=["no process", "broken off"],
)
async def test_a_server_that_the_system_cannot_fork_is_retried(
    embedding,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    embedded = embedding()
    await embedded.start()

    def fork(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr("eventstore.embedded.server.subprocess.Popen", fork)
        pid = embedded.kill()
        await until(lambda: str(error) in capsys.readouterr().out)
    await until(lambda: embedded.server.pid not in (None, pid))
    await embedded.ends()


async def test_a_check_without_free_file_descriptors_is_retried(
    embedding, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = embedding()
    await embedded.start()

    def none_left(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as broken:
        broken.setattr("eventstore.embedded.server.socket.socket", none_left)
        embedded.kill()
        await until(lambda: "does not answer yet" in capsys.readouterr().out)
    await until(lambda: "redis is running again" in capsys.readouterr().out)
    await embedded.ends()


async def test_a_server_that_loads_for_long_is_waited_for_and_logged(
    embedding, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed and started again it would never finish. The loop goes on meanwhile."""
    embedded = embedding(**SLOW_LOADING)
    await embedded.start()
    embedded.fill()
    before = embedded.kill()
    await until(lambda: embedded.server.pid not in (None, before))
    loading = embedded.server.pid
    await until(lambda: f"redis (pid {loading}) loads its" in capsys.readouterr().out)
    await until(lambda: "redis is running again" in capsys.readouterr().out, timeout=30)
    assert embedded.server.pid == loading
    with redis.Redis.from_url(embedded.server.url) as client:
        assert client.dbsize() == COMMANDS
    await embedded.ends()


async def leave_data(embedding) -> None:
    """So much in the folder of the server that a slow one loads for a while."""
    filled = embedding()
    await filled.start()
    filled.fill()
    await filled.ends()
    filled.server.stop()


async def test_the_first_start_waits_while_it_loads_too(
    embedding, capsys: pytest.CaptureFixture[str]
) -> None:
    await leave_data(embedding)
    capsys.readouterr()
    embedded = embedding(**SLOW_LOADING)
    starting = asyncio.ensure_future(embedded.start())
    await until(lambda: "loads its append-only file" in capsys.readouterr().out)
    assert not starting.done()
    await starting
    await embedded.ends()


async def test_a_server_that_ends_as_soon_as_it_serves_is_restarted(
    embedding, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is started again by then, and may load."""
    embedded = embedding()
    ask, answers = log_server.check_server, [LogUnreachable("Redis does not answer")]

    async def check(url: str) -> str:
        if answers:
            raise answers.pop()
        return await ask(url)

    monkeypatch.setattr(log_server, "check_server", check)
    await embedded.start()
    said = capsys.readouterr().out
    assert said.index("does not answer; waiting for it") < said.index("embedded Valkey")
    await embedded.ends()


async def test_a_stop_request_is_received_while_it_loads(
    embedding, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await leave_data(embedding)
    capsys.readouterr()
    embedding(**SLOW_LOADING)
    starting = up.Up(replace(load({"data_dir": tmp_path}, {}), redis_url=""))
    running = asyncio.ensure_future(starting.run())
    await until(lambda: "loads its append-only file" in capsys.readouterr().out)
    began = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)
    assert await running == 0
    starting.log_server.stop()
    assert time.monotonic() - began < 2


async def test_a_stop_request_between_two_attempts_prevents_the_next(
    embedding, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "RESTART_SECONDS", (60.0, 60.0))
    embedded = embedding()
    await embedded.start()
    embedded.kill()
    await until(lambda: "starting it again in" in capsys.readouterr().out)
    await embedded.ends()
    assert embedded.server.pid is None


# ---- a full disk ---------------------------------------------------------------------------


async def test_a_server_that_could_not_write_its_file_is_asked_to_rewrite_it(
    embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until that has succeeded; then it can be started again, though its file had a hole."""
    monkeypatch.setattr(log_server, "REWRITE_RETRY_SECONDS", 0.1)
    embedded = embedding()
    embedded.server.directory.mkdir(parents=True)
    binary = Path(surviving(str(find_binary()), embedded.server.directory))
    monkeypatch.setattr("eventstore.embedded.directory.find_binary", lambda: binary)
    await embedded.start()
    with redis.Redis.from_url(embedded.server.url) as client:

        def persistence() -> dict[str, Any]:
            return dict(client.info("persistence"))

        await written_in_part(embedded.server, client)
        await until(lambda: persistence()["aof_last_write_status"] == "err")
        await asyncio.sleep(2 * log_server.REWRITE_POLL_SECONDS)
        assert persistence()["aof_rewrites"] == 1, "there is no room for it yet"
        await write_again(embedded.server, client)
        await until(lambda: persistence()["aof_rewrites"] == 2)
        await until(lambda: not persistence()["aof_rewrite_in_progress"])
        keys = client.dbsize()
        before = embedded.kill()
        await until(lambda: embedded.server.pid not in (None, before))
        await until(lambda: embedded.server.ping() == "PONG")
        assert client.dbsize() == keys
    await embedded.ends()


# ---- roles -----------------------------------------------------------------------------------

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
        self.said: list[str] = []

    def write(self, text: str) -> None:
        new = self.program.with_suffix(".new")
        new.write_text(f"#!{sys.executable}\n{text}")
        new.chmod(0o700)
        new.replace(self.program)

    async def begin(self) -> None:
        self.write(READY)
        assert (await self.child.start(10)).ready
        processes: Any = role_processes.RoleProcesses(load({}, {}), Background())
        processes._children["gateway"] = self.child
        start = functools.partial(processes._restart, "gateway")
        self.keeping = asyncio.ensure_future(
            restarts.restart_on_exit(self.child, start, self.ending, self.said.append)
        )

    async def say(self, text: str) -> None:
        await until(lambda: any(text in said for said in self.said), what=text)

    async def end(self) -> None:
        self.ending.set()
        await self.child.stop(5)
        await asyncio.wait_for(self.keeping, 10)


@pytest.fixture
async def role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Role]:
    monkeypatch.setattr(role_processes, "READY_SECONDS", 10)
    made = Role(tmp_path)
    await made.begin()
    yield made
    await made.end()


async def test_a_role_that_dies_while_it_reports_is_restarted(role: Role) -> None:
    role.write(HALF)
    os.kill(role.child.pid, signal.SIGKILL)
    await role.say("gateway could not be started: its report cannot be read")
    role.write(READY)
    await role.say("gateway is running again")


async def test_a_role_that_the_system_cannot_fork_is_restarted(role: Role) -> None:
    role.program.unlink()
    os.kill(role.child.pid, signal.SIGKILL)
    await role.say("gateway could not be started: it cannot be started: [Errno 2]")
    role.write(READY)
    await role.say("gateway is running again")


async def test_a_role_whose_process_dies_during_its_start_is_restarted(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork(*_: Any, **__: Any) -> Any:
        raise subprocess.SubprocessError("Exception occurred in preexec_fn.")

    with monkeypatch.context() as broken:
        broken.setattr("muster.process.child.subprocess.Popen", fork)
        os.kill(role.child.pid, signal.SIGKILL)
        await role.say("gateway could not be started: it cannot be started: Exception occurred")
    await role.say("gateway is running again")


async def test_a_role_is_not_started_after_a_stop_request(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would run on when all others have been stopped."""
    monkeypatch.setattr(restarts, "RESTART_SECONDS", (60.0, 60.0))
    pid = role.child.pid
    os.kill(pid, signal.SIGKILL)
    await role.say("starting it again in")
    await role.end()
    assert role.child.pid == pid
