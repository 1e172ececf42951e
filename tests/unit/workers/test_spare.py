"""A process that is forked ahead: it becomes the next worker, or ends."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from eventstore.language.pool_config import PoolConfig
from tests.forked import fork_zygotes
from tests.waiting import until
from workers.launch.launchers import ForkLauncher
from workers.launch.zygote_messages import Plan
from workers.process.options import WorkerOptions

SOON = """
from muster import Agent
from workers.launch import zygote

zygote.SPARE_AFTER_SECONDS, zygote.SPARE_SECONDS = 0.0, 0.5

class Worker(Agent): pass
"""


class Host:
    """A zygote whose workers end at once, as there is no Redis."""

    def __init__(self, folder: Path) -> None:
        (folder / "soon.py").write_text(SOON)
        self.launcher = ForkLauncher(Plan(roles={"r": "soon:Worker"}, app_dir=str(folder)))
        self.ended = asyncio.Queue[tuple[str, str]]()
        self._folder = folder

    async def launch(self, worker_id: str) -> int:
        """The worker's pid, once it has ended."""
        options = WorkerOptions(
            redis_url=f"unix://{self._folder}/no.sock", pool_name="p", worker_id=worker_id,
            host="h", role="r", config=PoolConfig(), log_dir=str(self._folder),
        )  # fmt: skip
        process = await self.launcher.launch(options)
        assert await asyncio.wait_for(self.ended.get(), 30) == (worker_id, "exited with code 79")
        return process.pid

    async def spare(self) -> int:
        """Once there is one."""
        [zygote] = self.launcher.pids
        return (await until(lambda: psutil.Process(zygote).children()))[0].pid


@pytest.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    fork_zygotes(monkeypatch.setattr)
    host = Host(tmp_path)
    await host.launcher.start(lambda *how: host.ended.put_nowait(how))
    yield host
    await host.launcher.stop()


async def test_it_becomes_the_next_worker_or_ends_after_a_while(host: Host) -> None:
    first = await host.launch("w1")
    spare = await host.spare()
    assert await host.launch("w2") == spare != first
    unused = await host.spare()
    await until(lambda: not psutil.pid_exists(unused))


async def test_a_worker_is_forked_where_it_is_gone(host: Host) -> None:
    await host.launch("w1")
    spare = await host.spare()
    os.kill(spare, signal.SIGKILL)
    await until(lambda: not psutil.pid_exists(spare))
    assert await host.launch("w2") != spare


async def test_it_does_not_outlive_its_zygote(host: Host) -> None:
    await host.launch("w1")
    spare = psutil.Process(await host.spare())
    [zygote] = host.launcher.pids
    os.kill(zygote, signal.SIGKILL)
    await until(lambda: not spare.is_running() or spare.status() == psutil.STATUS_ZOMBIE)
