"""From the question to `run` in a worker that is started for it, and a fork with a connection.

The pool has one agent per worker, and every agent stays, so that each needs a new worker.
"""

import asyncio
import time
from functools import partial

from tests.bench.asked import Asked, forks
from tests.bench.figures import Figure, Report, percentile
from tests.bench.muster_system import MeasuredSystem, muster
from tests.bench.setup import Setup, interleaved
from tests.bench.waits import Reports, Requests
from tests.waiting import until

POOL = {"agents_per_worker": 1, "max_workers": 100, "empty_worker_seconds": 1}
PAUSE_SECONDS = 0.2


async def run(setup: Setup) -> Report:
    count = setup.scaled(20, 8)
    async with (
        muster(setup.new_folder("muster"), {"reports": POOL}) as system,
        forks(system.redis_url) as forking,
    ):
        await new_workers(system, 2)
        await bare_forks(forking, 2)
        parts = {
            "muster": partial(new_workers, system, count),
            "bare": partial(bare_forks, forking, count),
        }
        found = await interleaved(setup.rounds, parts)
    return Report(
        name="spawn-worker",
        figures=(
            Figure(
                name="ask to running in a new worker, p50",
                unit="ms",
                ours=tuple(percentile(one, 50) for one in found["muster"]),
                compared_with="fork and a reply from Redis",
                baseline=tuple(percentile(one, 50) for one in found["bare"]),
                better="less",
                target=3.0,
                aim=2.0,
            ),
        ),
        notes=(f"{count} workers a round",),
    )


async def new_workers(system: MeasuredSystem, count: int) -> list[float]:
    """Milliseconds for each; all workers have ended before and after."""
    found = []
    with Reports() as reports, Requests(system) as requests:
        for _ in range(count):
            requests.spawn(reports.port, stay=True)
            found.append(await asyncio.to_thread(reports.next_ms))
            await asyncio.sleep(PAUSE_SECONDS)
    for agent in await system.agents("pool_name=reports&status=running&limit=1000"):
        await system.call("DELETE", f"/api/v1/agents/{agent['agent_id']}?graceful=false")

    async def without_workers() -> bool:
        return not (await system.pool("reports"))["process_count"]

    await until(without_workers, timeout=60, interval=0.2)
    return found


async def bare_forks(forking: Asked, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(await forking.ask("fork"))
        time.sleep(0.02)
    return found
