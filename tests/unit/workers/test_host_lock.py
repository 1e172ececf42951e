"""One supervisor per host: the next one waits for one that is ending, and for nothing else."""

import asyncio
import errno
import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.waiting import until
from workers.host import lock
from workers.host.lock import HostLock, LockRefused
from workers.supervisor.options import SHUTDOWN_SECONDS
from workers.supervisor.supervisor import KILL_SECONDS


async def test_a_supervisor_that_is_ending_is_waited_for_and_logged_once(
    tmp_path: Path,
) -> None:
    """It may still drain its workers; with an error instead the next one would not start."""
    assert lock.LOCK_TIMEOUT_SECONDS > SHUTDOWN_SECONDS + KILL_SECONDS
    last, following = HostLock("h", str(tmp_path), ""), HostLock("h", str(tmp_path), "")
    await last.acquire(0.0)
    with capture_logs() as lines:
        waiting = asyncio.create_task(following.acquire(20.0))
        await until(lambda: lines)
        last.release()
        await waiting
    assert [(line["event"], line["seconds"]) for line in lines] == [
        ("supervisor.waits_for_another", 20.0)
    ]
    following.release()


async def test_a_wait_for_the_previous_supervisor_is_cancelled_at_once(tmp_path: Path) -> None:
    last = HostLock("h", str(tmp_path), "")
    await last.acquire(0.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await HostLock("h", str(tmp_path), "").acquire(20.0)
    last.release()


@pytest.mark.parametrize("at", ["socket", "bind"])
async def test_an_error_of_the_system_is_not_mistaken_for_another_supervisor(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait would never end, and the message would be wrong."""

    class Refused(socket.socket):
        def __init__(self, *arguments: int) -> None:
            if at == "socket":
                raise OSError(errno.EMFILE, "Too many open files")
            super().__init__(*arguments)

        def bind(self, _address: object) -> None:
            raise OSError(errno.ENOBUFS, "No buffer space available")

    monkeypatch.setattr(socket, "socket", Refused)
    with pytest.raises(LockRefused, match=r"Too many open files|No buffer space"):
        await HostLock("h", str(tmp_path), "").acquire(0.0)
