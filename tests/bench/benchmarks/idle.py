"""The processor time of a system with a hundred idle agents, in percent of a core."""

from tests.bench.figures import Breakdown, Figure, Report, median_rows
from tests.bench.muster_system import idle_percent, muster
from tests.bench.setup import Setup

WORKERS, AGENTS = 10, 100
POOL = {"min_workers": WORKERS, "max_workers": WORKERS, "max_idle_time": '"never"'}


async def run(setup: Setup) -> Report:
    seconds = setup.scaled(10, 8)
    async with muster(setup.new_folder("muster"), {"stays": POOL}) as system:
        await system.fill("stays", AGENTS)
        found = [await idle_percent(system, seconds) for _ in range(setup.rounds)]
    return Report(
        name="idle",
        figures=(
            Figure(
                name="100 idle agents in 10 workers",
                unit="% of a core",
                ours=tuple(sum(row.values()) for row in found),
                better="less",
                target=1.0,
                aim=0.5,
            ),
        ),
        breakdowns=(
            Breakdown(
                title="Processor time when idle, by process",
                unit="% of a core",
                rows={"100 idle agents": median_rows(found)},
            ),
        ),
        notes=(f"{setup.rounds} times {seconds} s",),
    )
