"""How costs grow with agents, pools, workers and events: slopes on a log-log plot.

1 is proportional. What has a constant part is below that; what grows with a square is at 2.
"""

import asyncio
import time
from statistics import median

from projector.rebuild.rebuild import RebuildOptions, replay
from tests.bench.figures import Figure, Report, growth, number
from tests.bench.history import history, sqlite_url
from tests.bench.muster_system import idle_percent, muster
from tests.bench.processes import CpuUsed
from tests.bench.setup import Setup

TARGET, AIM = 1.1, 1.0
SETTLE_SECONDS = 0.3
"""For what follows a pool that is made."""
POOL = {"min_workers": 4, "max_workers": 4, "backlog_limit": 1_000_000}


async def run(setup: Setup) -> Report:
    costs = {
        "CPU of a load, by agents in it": await by_agents(setup),
        "CPU of making pools, by pools": await by_pools(setup),
        "CPU of idle workers of ten agents, by workers": await by_workers(setup),
        "CPU of a replay, by events": await by_events(setup),
    }
    figures, notes = [], []
    for name, points in costs.items():
        fit = growth([size for size, _ in points], [cost for _, cost in points])
        figures.append(
            Figure(
                name=f"{name} (± {fit.half_width:.2f})",
                unit="slope",
                ours=(fit.slope,),
                better="less",
                target=TARGET,
                aim=AIM,
            )
        )
        by_size: dict[int, list[float]] = {}
        for size, cost in points:
            by_size.setdefault(size, []).append(cost)
        shown = (f"{size:,}: {number(median(found))}" for size, found in by_size.items())
        notes.append(f"{name}: {', '.join(shown)}")
    return Report(name="growth", figures=tuple(figures), notes=tuple(notes))


async def by_agents(setup: Setup) -> list[tuple[int, float]]:
    """CPU seconds of all processes for so many spawns."""
    sizes = setup.scaled(1000, 400)
    async with muster(setup.new_folder("muster"), {"returns": POOL}) as system:
        await system.spawned("returns", 500)
        return [
            (count, (await system.spawned("returns", count)).cpu_sum * count / 1e6)
            for count in (sizes, sizes * 2, sizes * 4, sizes * 8)
        ]


async def by_pools(setup: Setup) -> list[tuple[int, float]]:
    """CPU seconds of all processes to make so many pools, each time in a new system."""
    first, points = setup.scaled(50, 20), []
    sizes = {first, first * 2, first * 4, first * 8}
    for _ in range(setup.rounds):
        async with muster(setup.new_folder("muster"), {"stays": {}}) as system:
            cpu = CpuUsed(system.processes)
            cpu.start()
            for made in range(1, max(sizes) + 1):
                body = {"pool_name": f"stays_{made}", "role_type": "stays"}
                assert (await system.call("POST", "/api/v1/agents/pools", body))[0] < 300
                if made in sizes:
                    await asyncio.sleep(SETTLE_SECONDS)
                    points.append((made, sum(cpu.stop(1).values()) / 1e6))
    return points


async def by_workers(setup: Setup) -> list[tuple[int, float]]:
    """Percent of a core of so many workers with ten idle agents each."""
    seconds, points = setup.scaled(10, 8), []
    for workers in (2, 4, 8, 16):
        pool = {"min_workers": workers, "max_workers": workers, "max_idle_time": '"never"'}
        async with muster(setup.new_folder("muster"), {"stays": pool}) as system:
            await system.fill("stays", workers * 10)
            points.append((workers, sum((await idle_percent(system, seconds)).values())))
    return points


async def by_events(setup: Setup) -> list[tuple[int, float]]:
    """CPU seconds of this process for a replay of so many events."""
    first, points = setup.scaled(15_000, 4_000), []
    for events in (first, first * 2, first * 4, first * 8):
        async with history(setup, events, sqlite_url(setup.new_folder("views"))) as log:
            options = RebuildOptions(redis_url=log.redis_url, database_url=log.database_url)
            for _ in range(setup.rounds):
                began = time.process_time()
                done = await replay(options, lambda _: None)
                points.append((done.events, time.process_time() - began))
    return points
