"""What Muster costs when nothing happens, and how soon an agent runs: run with `-m bench`."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.system import System

pytestmark = pytest.mark.bench

IDLE_SECONDS = 10.0
IDLE_SHARE_MAX = 0.03
WORKER_BYTES_MAX = 15_000_000
FREE_SLOT_MS_MAX = 10.0
NEW_WORKER_MS_MAX = 150.0
POOLS = ("developer", "tester", "business_analyst", "team_leader")


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[System]:
    """`muster up` with the intervals that users have."""
    async with System(tmp_path) as system:
        yield system


def seconds_used(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def test_ten_workers_with_a_hundred_idle_agents(plain: System) -> None:
    """All of Muster and its Redis under 3 % of a core, each worker under 15 MB."""
    await asyncio.gather(*(plain.spawn(wait=30, max_idle_time=None) for _ in range(100)))
    assert plain.process is not None
    everything = [psutil.Process(plain.process.pid), *plain.family()]
    before = seconds_used(everything)
    await asyncio.sleep(IDLE_SECONDS)
    share = (seconds_used(everything) - before) / IDLE_SECONDS
    sizes = [worker.memory_full_info().pss for worker in await plain.workers()]
    print(f"\nidle: {share:.2%} of a core; workers: {len(sizes)}, up to {max(sizes) / 1e6:.1f} MB")
    assert len(sizes) == 10
    assert share < IDLE_SHARE_MAX
    assert max(sizes) < WORKER_BYTES_MAX


async def timed_spawn(system: System, pool: str, role: str) -> tuple[float, str]:
    """Milliseconds from the question to the answer that it runs, and its id."""
    began = time.perf_counter()
    spawned = await system.spawn(pool, role)
    assert spawned["status"] == "running"
    return (time.perf_counter() - began) * 1000, spawned["agent_id"]


async def test_from_the_question_to_running(plain: System) -> None:
    """With a free slot at once; a worker more, for the first agent of a pool."""
    starts = [(await timed_spawn(plain, f"{role}_pool", role))[0] for role in POOLS]
    free = []
    for _ in range(200):
        took, agent_id = await timed_spawn(plain, "developer_pool", "developer")
        free.append(took)
        assert (await plain.call("DELETE", f"/api/v1/agents/{agent_id}"))[0] == 200
    middle, late = statistics.median(free), statistics.quantiles(free, n=100)[98]
    print(f"\nfree slot: p50 {middle:.1f} ms, p99 {late:.1f} ms;")
    print(f"new worker: median {statistics.median(starts):.0f} ms, {[round(ms) for ms in starts]}")
    assert middle < FREE_SLOT_MS_MAX
    assert statistics.median(starts) < NEW_WORKER_MS_MAX
