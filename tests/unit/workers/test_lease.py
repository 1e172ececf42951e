"""When a lease is renewed first, and when its guard notices that it is over."""

import asyncio
import random
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from eventstore.language.pool_config import PoolConfig
from tests.waiting import until
from workers.host.processes import boot_seconds
from workers.process.lease import Hooks, Lease
from workers.process.options import WorkerOptions

CONFIG = PoolConfig(lease_seconds=10, renew_seconds=5)


class Site:
    """The lease of a worker whose Redis cannot be reached."""

    def __init__(self, folder: Path, *, granted_seconds_ago: float = 0.0) -> None:
        self.lost: list[str] = []
        options = WorkerOptions(
            redis_url=f"unix://{folder}/none.sock",
            pool_name="p",
            worker_id="w",
            host="h",
            config=CONFIG,
            exits=False,
        )
        hooks = Hooks(
            high_water_mark=lambda: (0, 0),
            agent_of=lambda _: "",
            busy=self.busy,
            snapshot=lambda _: b"{}",
            renewed=lambda _: None,
            lost=self.lost.append,
            log_unavailable=lambda: None,
            orphaned=lambda: None,
        )
        self.lease = Lease(options, 1, hooks, granted_at=boot_seconds() - granted_seconds_ago)

    def busy(self) -> bool:
        return False


async def test_a_lease_whose_grant_took_long_is_renewed_while_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was slow when the worker registered: most of its lease is over as it starts."""
    monkeypatch.setattr(random, "random", lambda: 0.99)
    renewed = asyncio.Event()
    site, loop = Site(tmp_path, granted_seconds_ago=6.0), asyncio.get_running_loop()

    def renew(_: object) -> float:
        loop.call_soon_threadsafe(renewed.set)
        return 60.0

    monkeypatch.setattr(site.lease, "_renew", renew)
    await site.lease.start()
    async with asyncio.timeout(1.0):
        await renewed.wait()
    await site.lease.stop()


async def test_a_lease_that_is_cut_short_is_over_in_time_while_agents_are_idle(
    tmp_path: Path,
) -> None:
    """The guard, which checks an idle worker rarely, must not come seconds late."""
    site, cut_at = Site(tmp_path), time.monotonic()
    await site.lease.start()
    await asyncio.sleep(0.1)  # the guard sleeps
    site.lease.reconfigure(replace(CONFIG, lease_seconds=1, renew_seconds=0.5), "1:1")
    await until(lambda: site.lost)
    assert site.lost == ["lease-expired"]
    assert time.monotonic() - cut_at < 1.5
    site.lease.confirm()
    await site.lease.stop()


async def test_a_lease_is_over_in_time_whatever_is_wrong_with_its_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error would end the guard's thread, and agents would run on without a lease."""

    def fail(_: Site) -> bool:
        raise RuntimeError("dictionary changed size during iteration")

    monkeypatch.setattr(Site, "busy", fail)
    site = Site(tmp_path, granted_seconds_ago=7.5)
    await site.lease.start()
    await until(lambda: site.lost)
    assert site.lost == ["lease-expired"]
    site.lease.confirm()
    await site.lease.stop()
