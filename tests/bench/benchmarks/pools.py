"""How long it takes to make a pool, and what 500 pools cost in which nothing happens."""

import statistics
import time

from tests.bench.figures import Breakdown, Figure, Report, median_rows
from tests.bench.muster_system import MeasuredSystem, idle_percent, muster
from tests.bench.setup import Setup

SAMPLES = 20


async def run(setup: Setup) -> Report:
    pools, seconds = setup.scaled(500, 100), setup.scaled(10, 8)
    firsts, lasts, idle = [], [], []
    for _ in range(setup.scaled(2, 1)):
        async with muster(setup.new_folder("muster"), {"stays": {}}) as system:
            await timed_create(system, "stays_warm_up")
            made = [await timed_create(system, f"stays_{n}") for n in range(pools + SAMPLES // 2)]
            firsts.append(statistics.median(made[:SAMPLES]))
            lasts.append(statistics.median(made[-SAMPLES:]))
            idle += [await idle_percent(system, seconds) for _ in range(setup.scaled(2, 1))]
    return Report(
        name="pools",
        figures=(
            Figure(
                name=f"making a pool, around the {pools}th",
                unit="ms",
                ours=tuple(lasts),
                compared_with="the first",
                baseline=tuple(firsts),
                better="less",
                target=1.2,
                aim=1.0,
            ),
            Figure(
                name=f"{pools} idle pools",
                unit="% of a core",
                ours=tuple(sum(row.values()) for row in idle),
                better="less",
                target=5.0,
                aim=2.0,
            ),
        ),
        breakdowns=(
            Breakdown(
                title="Processor time when idle, by process",
                unit="% of a core",
                rows={f"{pools} pools": median_rows(idle)},
            ),
        ),
        notes=(f"medians of {SAMPLES}; idle for {seconds} s",),
    )


async def timed_create(system: MeasuredSystem, pool: str) -> float:
    """Milliseconds until the answer that it is made."""
    began = time.perf_counter()
    status, answer = await system.call(
        "POST", "/api/v1/agents/pools", {"pool_name": pool, "role_type": "stays"}
    )
    assert status in (200, 201), answer
    return (time.perf_counter() - began) * 1000
