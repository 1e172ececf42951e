"""A thousand workers of 200 pools with ten agents each: what they cost at rest, and a decision.

The workers are simulated: they start, claim and renew by the real protocol, but have no process.
Supervisor, Redis, projector and gateway are real. A decision is an agent that finds no free slot.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench import load
from tests.bench.figures import Breakdown, Figure, Report, growth
from tests.bench.muster_system import MeasuredSystem, body, idle_percent, muster
from tests.bench.setup import Setup
from tests.waiting import until

WORKERS = 5
"""Of each pool."""
SLOTS = 10
DECISIONS = 10
ROOT = Path(__file__).parents[3]


async def run(setup: Setup) -> Report:
    largest, seconds = setup.scaled(200, 40), setup.scaled(10, 6)
    sizes = [largest // 8, largest // 4, largest // 2, largest]
    rows: dict[str, dict[str, float]] = {}
    async with (
        muster(setup.new_folder("muster"), {"stays": {}}) as system,
        simulated_workers(system.redis_url) as simulated,
    ):
        made = 0
        for pools in sizes:
            for number in range(made, pools):
                await fill(system, simulated, f"stays_{number}")
            made = pools
            rows[f"{pools * WORKERS:,} workers"] = await idle_percent(system, seconds)
        decided = [await decision_ms(system, f"stays_{n}") for n in range(DECISIONS)]
    supervisor = [row["supervisor"] for row in rows.values()]
    fit = growth(sizes, supervisor)
    workers = largest * WORKERS
    return Report(
        name="many-workers",
        figures=(
            Figure(
                name=f"a decision, with {workers:,} workers",
                unit="ms",
                ours=tuple(decided),
                better="less",
                target=50.0,
            ),
            Figure(
                name=f"the supervisor that leads {largest} pools at rest",
                unit="% of a core",
                ours=(supervisor[-1],),
                better="less",
                target=2.0,
            ),
            Figure(
                name=f"its CPU, by workers (± {fit.half_width:.2f})",
                unit="slope",
                ours=(fit.slope,),
                better="less",
                target=1.1,
            ),
        ),
        breakdowns=(Breakdown(title="Processor time when idle", unit="% of a core", rows=rows),),
        notes=(f"{WORKERS} workers of {SLOTS} agents a pool; {DECISIONS} decisions",),
    )


async def fill(system: MeasuredSystem, simulated: asyncio.subprocess.Process, pool: str) -> None:
    """Make a pool whose workers are all full. Its size is not decided on until then."""
    status, answer = await system.call(
        "POST",
        "/api/v1/agents/pools",
        {"pool_name": pool, "role_type": "stays", "config": {"paused": "it is filled"}},
    )
    assert status == 201, answer
    assert simulated.stdin is not None
    simulated.stdin.write(f"{pool} {WORKERS}\n".encode())
    await reports(simulated, b"started\n")
    await load.post(f"{system.url}/api/v1/agents/spawn", body(pool), WORKERS * SLOTS)
    await reports(simulated, b"claimed\n")
    status, answer = await system.call("POST", f"/api/v1/agents/pools/{pool}/resume")
    assert status == 200, answer


async def reports(simulated: asyncio.subprocess.Process, line: bytes) -> None:
    assert simulated.stdout is not None
    assert await asyncio.wait_for(simulated.stdout.readline(), 120) == line


async def decision_ms(system: MeasuredSystem, pool: str) -> float:
    """From the request for an agent that finds no slot to the decision, both in log time."""
    await load.post(f"{system.url}/api/v1/agents/spawn", body(pool), 1)
    with system.redis() as client:

        def times() -> dict[str, int]:
            entries = client.xrevrange(f"pool:{{{pool}}}:events", count=10)
            return {entry["type"]: int(entry["ts"]) for _, entry in reversed(entries)}

        await until(lambda: "pool.scaling_decided" in times(), timeout=30)
        found = times()
    return float(found["pool.scaling_decided"] - found["agent.requested"])


@asynccontextmanager
async def simulated_workers(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.simulated_workers", url, "stays",
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
