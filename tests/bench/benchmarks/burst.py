"""Two hundred spawns at once into an empty pool, and as many forks as they need workers."""

import os
from collections.abc import Awaitable, Callable
from functools import partial

from msgspec import Struct

from tests.bench import load
from tests.bench.asked import Asked, forks
from tests.bench.figures import Figure, Report
from tests.bench.muster_system import MeasuredSystem, body, muster
from tests.bench.setup import Setup, interleaved
from tests.waiting import until
from workers.host.capacity import HostLimits

AGENTS, WORKERS = 200, 20
POOL = {"empty_worker_seconds": 1, "max_idle_time": '"never"'}


class Burst(Struct, frozen=True):
    """Milliseconds of log time, and how many decisions ordered the workers."""

    arrived_ms: float
    all_run_ms: float
    decisions: int


async def run(setup: Setup) -> Report:
    launches = HostLimits().launches
    async with (
        muster(setup.new_folder("muster"), {"stays": POOL}) as system,
        forks(system.redis_url) as forking,
    ):
        await burst(system)
        parts: dict[str, Callable[[], Awaitable[Burst | float]]] = {
            "muster": partial(burst, system),
            "bare": partial(bare, forking, launches),
        }
        found = await interleaved(setup.rounds, parts)
    bursts = [one for one in found["muster"] if isinstance(one, Burst)]
    return Report(
        name="burst",
        figures=(
            Figure(
                name=f"{AGENTS} agents at once, from the first request until all run",
                unit="ms",
                ours=tuple(one.all_run_ms for one in bursts),
                compared_with=f"{WORKERS} forks with a reply from Redis, {launches} at a time",
                baseline=tuple(one for one in found["bare"] if isinstance(one, float)),
                better="less",
                target=3.0,
            ),
            Figure(
                name="until the last request was accepted",
                unit="ms",
                ours=tuple(one.arrived_ms for one in bursts),
            ),
            Figure(
                name="decisions that ordered workers",
                unit="",
                ours=tuple(float(one.decisions) for one in bursts),
            ),
        ),
        notes=(f"{os.cpu_count()} cores",),
    )


async def burst(system: MeasuredSystem) -> Burst:
    """All workers have ended before and after."""
    with system.redis() as client:
        key = "pool:{stays}:events"
        last = client.xinfo_stream(key)["last-generated-id"] if client.exists(key) else "0"
        await load.post(f"{system.url}/api/v1/agents/spawn", body("stays"), AGENTS, connections=50)
        await system.running(AGENTS, timeout=60)
        entries = [fields for _, fields in client.xrange(key, f"({last}")]
    times = {
        kind: [int(one["ts"]) for one in entries if one["type"] == kind]
        for kind in ("agent.requested", "agent.started", "worker.requested")
    }
    assert len(times["worker.requested"]) == WORKERS, len(times["worker.requested"])
    ordering = {one["causation_id"] for one in entries if one["type"] == "worker.requested"}
    for agent in await system.agents(f"pool_name=stays&status=running&limit={AGENTS}"):
        await system.call("DELETE", f"/api/v1/agents/{agent['agent_id']}?graceful=false")

    async def without_workers() -> bool:
        return not (await system.pool("stays"))["process_count"]

    await until(without_workers, timeout=60, interval=0.2)
    first = min(times["agent.requested"])
    return Burst(
        max(times["agent.requested"]) - first, max(times["agent.started"]) - first, len(ordering)
    )


async def bare(forking: Asked, launches: int) -> float:
    return float(await forking.ask(f"forks {WORKERS} {launches}"))
