"""Starting worker processes when the zygote or the system fails."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from eventstore.errors import ConfigurationError
from eventstore.language.catalogue import Pool
from eventstore.language.pool_config import PoolConfig
from tests.forked import fork_zygotes
from workers.host.capacity import HostLimits
from workers.host.process_tree import Found
from workers.host.processes import Process, this_process
from workers.launch import worker_process, zygote
from workers.launch.launchers import REFUSED_TRIES, ForkLauncher, LaunchFailed, ZygoteRefused
from workers.launch.pool_processes import HostProcesses
from workers.launch.zygote_messages import Plan
from workers.process.options import WorkerOptions


async def test_a_zygote_that_hangs_does_not_block_its_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for its end for ever, and it does not survive."""
    monkeypatch.setattr("workers.launch.launchers.END_SECONDS", 0.2)
    launcher = ForkLauncher(Plan(roles={}, app_dir=str(tmp_path)))
    await launcher.start(lambda *_: None)
    zygote = launcher._zygote
    assert zygote is not None
    kill = zygote.kill

    def kill_and_wait() -> None:
        kill()
        zygote.wait(10)  # the system may need a while to end a killed process

    monkeypatch.setattr(zygote, "kill", kill_and_wait)
    try:
        zygote.send_signal(signal.SIGSTOP)
        await launcher.stop()
        assert zygote.returncode == -signal.SIGKILL
    finally:
        zygote.kill()
        zygote.wait()


async def test_a_killed_zygote_that_lingers_blocks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little memory its end takes time, and a supervisor has more to stop."""
    monkeypatch.setattr("workers.launch.launchers.END_SECONDS", 0.1)
    launcher = ForkLauncher(Plan(roles={}, app_dir=str(tmp_path)))
    await launcher.start(lambda *_: None)
    zygote = launcher._zygote
    assert zygote is not None
    zygote.send_signal(signal.SIGSTOP)
    kill = zygote.kill
    monkeypatch.setattr(zygote, "kill", lambda: None)
    try:
        await launcher.stop()
        assert zygote.returncode is None
    finally:
        kill()
        zygote.wait()


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what does not depend on how a zygote is started: its imports are what takes the time."""
    fork_zygotes(monkeypatch.setattr)


@pytest.mark.usefixtures("forked")
async def test_a_long_error_of_an_import_is_reported_too(tmp_path: Path) -> None:
    """It quotes an invalid value, which may be long."""
    (tmp_path / "wordy.py").write_text("raise RuntimeError('x' * 200_000 + ' the end')\n")
    launcher = ForkLauncher(Plan(roles={"r": "wordy:Wordy"}, app_dir=str(tmp_path)))
    try:
        with pytest.raises(ConfigurationError, match="importing wordy failed") as raised:
            await launcher.start(lambda *_: None)
        assert str(raised.value).endswith(" the end")
    finally:
        await launcher.stop()


ENDING = """\
import os
from pathlib import Path

from muster import Agent

folder = Path(__file__).parent
with (folder / "started").open("a") as started:
    started.write("x")
if (folder / "started").stat().st_size < {least}:
    {end}


class Ending(Agent):
    pass
"""
KILLED = "os.kill(os.getpid(), 9)"


@pytest.mark.parametrize(
    ("end", "least", "times", "said"),
    [
        (KILLED, 2, 2, ""),
        (KILLED, 9, 3, "importing role 'r' .ending:Ending.: killed by signal 9, 3 times"),
        ("os._exit(3)", 9, 1, "importing role 'r' .ending:Ending.: exited with code 3"),
    ],
    ids=["killed once", "killed whenever it imports", "ended by what it imports"],
)
@pytest.mark.usefixtures("forked")
async def test_a_zygote_that_ends_before_it_is_ready(
    tmp_path: Path, end: str, least: int, times: int, said: str
) -> None:
    """It may have been killed: that is no reason for a supervisor to end."""
    (tmp_path / "ending.py").write_text(ENDING.format(end=end, least=least))
    launcher = ForkLauncher(Plan(roles={"r": "ending:Ending"}, app_dir=str(tmp_path)))
    try:
        if said:
            with pytest.raises(ConfigurationError, match=said):
                await launcher.start(lambda *_: None)
        else:
            await launcher.start(lambda *_: None)
        assert (tmp_path / "started").stat().st_size == times
    finally:
        await launcher.stop()


async def test_a_zygote_that_was_killed_and_lingers_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How it ends is not known yet."""
    lingering: list[Any] = []
    monkeypatch.setattr("workers.launch.launchers._wait_or_kill", lingering.append)
    (tmp_path / "ending.py").write_text(ENDING.format(end=KILLED, least=2))
    launcher = ForkLauncher(Plan(roles={"r": "ending:Ending"}, app_dir=str(tmp_path)))
    try:
        await launcher.start(lambda *_: None)
    finally:
        await launcher.stop()
        for one in lingering:
            one.wait(10)
    assert len(lingering) == 2


@pytest.mark.parametrize("refusals", [2, REFUSED_TRIES])
async def test_a_refused_start_of_the_zygote_is_retried_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    """Memory may be short briefly. A supervisor that ends reports why to its parent."""
    start, left = subprocess.Popen, refusals

    def refuse(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return start(*arguments, **options)

    monkeypatch.setattr("workers.launch.launchers.REFUSED_SECONDS", 0.0)
    monkeypatch.setattr("workers.launch.launchers.subprocess.Popen", refuse)
    launcher = ForkLauncher(Plan(roles={}, app_dir=str(tmp_path)))
    try:
        if refusals == REFUSED_TRIES:
            with pytest.raises(ZygoteRefused, match=r"workers from: .*Cannot allocate memory"):
                await launcher.start(lambda *_: None)
        else:
            await launcher.start(lambda *_: None)
        assert not left
    finally:
        await launcher.stop()


@pytest.mark.usefixtures("forked")
async def test_a_zygote_that_cannot_restart_fails_the_launch_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was never forked would be waited for when the host leaves."""
    role = tmp_path / "changing.py"
    role.write_text("from muster import Agent\nclass Changing(Agent): pass\n")
    plan = Plan(roles={"r": "changing:Changing"}, app_dir=str(tmp_path))
    local = HostProcesses(ForkLauncher(plan), cast("Any", lambda *_: None), lambda _: None)
    await local.start()
    try:
        launcher = cast("ForkLauncher", local._launcher)
        assert launcher._zygote is not None
        assert launcher._listener is not None
        launcher._zygote.kill()
        await launcher._listener
        role.write_text("from muster import Agent\nraise RuntimeError('half an upgrade')\n")
        await local.launch(Pool(pool_name="p", role_type="r"), "w")
        assert local.exit_reason("w") == "no zygote starts to fork it from"
        assert local.count == 0
    finally:
        await local.stop()


FORKS = """
import errno, os
from muster import Agent
fork, refusals = os.fork, [errno.EAGAIN, errno.EAGAIN]

def refuse():
    if refusals:
        raise OSError(refusals.pop(), "Resource temporarily unavailable")
    return fork()

os.fork = refuse

class Worker(Agent): pass
"""


@pytest.mark.usefixtures("forked")
async def test_a_refused_fork_fails_that_launch_only(tmp_path: Path) -> None:
    """The zygote has imported everything, and watches the workers that it has forked."""
    (tmp_path / "forks.py").write_text(FORKS)
    plan = Plan(roles={"r": "forks:Worker"}, app_dir=str(tmp_path))
    launcher, ended = ForkLauncher(plan), asyncio.Queue[tuple[str, str]]()
    await launcher.start(lambda *how: ended.put_nowait(how))
    try:
        before = launcher.pids
        [zygote_pid] = before
        opened = set()
        nowhere = f"unix://{tmp_path}/no.sock"
        options = WorkerOptions(
            redis_url=nowhere, pool_name="p", worker_id="w", host="h", role="r",
            config=PoolConfig(), log_dir=str(tmp_path),
        )  # fmt: skip
        for _ in range(2):
            with pytest.raises(LaunchFailed, match="Resource temporarily unavailable"):
                await launcher.launch(options)
            opened.add(len(list(Path(f"/proc/{zygote_pid}/fd").iterdir())))
        assert len(opened) == 1
        await launcher.launch(options)
        assert launcher.pids == before
        assert await asyncio.wait_for(ended.get(), 30) == ("w", "exited with code 79")
    finally:
        await launcher.stop()


async def test_a_host_starts_no_more_workers_at_once_than_it_may() -> None:
    """Each pool has a leader, and none of them knows what the others have just ordered."""
    launched: list[str] = []

    async def launch(worker_id: Any) -> Process:
        launched.append(worker_id)
        return this_process()

    launcher = cast("Any", SimpleNamespace(launch=launch))
    options_for = cast("Any", lambda _, worker_id: worker_id)
    limits = HostLimits(launches_max=2)
    local = HostProcesses(launcher, options_for, lambda _: None, limits=limits)
    pool = Pool(pool_name="p", role_type="r")
    await asyncio.gather(*(local.launch(pool, name) for name in "abcd"))
    assert launched == ["a", "b"]
    local.adopt("p", "a", this_process())
    await asyncio.gather(*(local.launch(pool, name) for name in "abcd"))
    assert launched == ["a", "b", "c"]


def test_a_leftover_that_may_not_be_signalled_does_not_end_the_zygote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as a program with another user's rights. The others are killed."""
    signalled: list[int] = []

    def signal_one(process: Process, _: signal.Signals) -> bool:
        if process.pid == 7:
            raise PermissionError
        signalled.append(process.pid)
        return True

    found = {n: Found(os.getpid(), Process(n, 1), "left", ended=False) for n in (6, 7, 8, 9)}
    monkeypatch.setattr(zygote, "all_processes", lambda: found)
    monkeypatch.setattr(Process, "signal", signal_one)
    assert zygote._kill_orphans({6}) == {7}
    assert signalled == [8, 9]


def test_a_zygote_whose_supervisor_was_killed_ends_in_good_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if that had not read all of its messages: the connection is reset."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(signal, "set_wakeup_fd", lambda *_, **__: None)
    for unread in (b"", b"x"):
        ours, theirs = socket.socketpair()
        with ours:
            ours.send(unread)
            theirs.close()
            assert zygote._serve(ours, {}) == 0


def test_a_worker_ends_with_its_code_whatever_became_of_its_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must not return into the zygote's loop."""

    def exit_with(code: int) -> None:
        raise Exited(code)

    ready = SimpleNamespace(run=lambda *_: 77)
    monkeypatch.setattr(worker_process, "Ready", lambda: ready)
    monkeypatch.setattr(worker_process, "read_options", lambda line: line)
    monkeypatch.setattr(worker_process, "reseed", lambda: None)
    monkeypatch.setattr(os, "_exit", exit_with)
    monkeypatch.setattr(sys, "stdout", None)
    pipes = cast("Any", SimpleNamespace(enter=lambda: None))
    orders, order = os.pipe()
    os.write(order, b"{}")
    os.close(order)
    with pytest.raises(Exited, match="77"):
        worker_process._become_worker(orders, {}, pipes, None)


class Exited(BaseException):
    """Instead of the end of the process."""
