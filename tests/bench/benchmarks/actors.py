"""Starting agents that stay, until all of them run; and Ray's actors.

Muster's share ten slots of a worker, and the workers start with them; each of Ray's has a process.
"""

import os
import time
from functools import partial

from tests.bench import load
from tests.bench.asked import asked
from tests.bench.benchmarks.event_library import ask_float
from tests.bench.environments import Environment
from tests.bench.figures import Figure, Report
from tests.bench.muster_system import MeasuredSystem, body, muster
from tests.bench.peers import SCRIPTS
from tests.bench.setup import Setup, interleaved
from tests.waiting import until

POOL = {"empty_worker_seconds": 0, "max_idle_time": '"never"'}


async def run(setup: Setup) -> Report:
    count = setup.scaled(40, 20)
    environment = Environment(setup.cache, "ray", ("ray",))
    environment.make()
    command = (environment.bin / "python", SCRIPTS / "ray_actors.py")
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(setup.new_folder("r"))}
    async with (
        asked(*command, cwd=setup.new_folder("ray"), env=env) as ray,
        muster(setup.new_folder("muster"), {"stays": POOL}) as system,
    ):
        found = await interleaved(
            setup.rounds,
            {
                "muster": partial(agents, system, count),
                "ray": partial(ask_float, ray, f"actors {count}"),
            },
        )
    return Report(
        name="actors",
        figures=(
            Figure(
                name="agents started",
                unit="/s",
                ours=tuple(found["muster"]),
                compared_with=environment.versions(),
                baseline=tuple(found["ray"]),
            ),
        ),
        notes=(f"{count} a round, from no worker to all running",),
    )


async def agents(system: MeasuredSystem, count: int) -> float:
    """Per second; all have ended before and after, and their workers too."""
    began = time.perf_counter()
    await load.post(f"{system.url}/api/v1/agents/spawn", body("stays"), count)
    await system.running(count)
    rate = count / (time.perf_counter() - began)
    for agent in await system.agents():
        await system.call("DELETE", f"/api/v1/agents/{agent['agent_id']}?graceful=false")

    async def without_workers() -> bool:
        return not (await system.pool("stays"))["process_count"]

    await until(without_workers, timeout=60, interval=0.1)
    return rate
