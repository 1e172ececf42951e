"""The proportional set sizes of a system of a hundred idle agents in ten workers."""

import asyncio
import statistics

import psutil

from tests.bench.asked import Asked, forks
from tests.bench.figures import Breakdown, Figure, Report, median_rows
from tests.bench.muster_system import MeasuredSystem, muster
from tests.bench.processes import pss_megabytes
from tests.bench.setup import Setup

WORKERS, AGENTS = 10, 100
POOL = {"min_workers": WORKERS, "max_workers": WORKERS, "max_idle_time": '"never"'}
PAUSE_SECONDS = 5.0


async def run(setup: Setup) -> Report:
    async with (
        muster(setup.new_folder("muster"), {"stays": POOL}) as system,
        forks(system.redis_url) as forking,
    ):
        await system.fill("stays", AGENTS)
        workers, bare, kinds = [], [], []
        for _ in range(setup.rounds):
            await asyncio.sleep(PAUSE_SECONDS)
            workers.append(await worker_size(system))
            kinds.append(sizes(system))
            bare.append(await fork_size(forking))
    return Report(
        name="memory",
        figures=(
            Figure(
                name="a worker with ten idle agents, PSS",
                unit="MB",
                ours=tuple(workers),
                compared_with="ten bare forks with a connection",
                baseline=tuple(bare),
                better="less",
            ),
            goal("a worker with ten idle agents, PSS", workers, 9.0, 8.0),
            goal(
                "the whole system of 100 agents, PSS",
                [sum(row.values()) for row in kinds],
                230.0,
                200.0,
            ),
        ),
        breakdowns=(
            Breakdown(
                title="PSS by process", unit="MB", rows={"100 idle agents": median_rows(kinds)}
            ),
        ),
        notes=("workers are ten, of ten agents each",),
    )


def goal(name: str, values: list[float], target: float, aim: float) -> Figure:
    return Figure(name=name, unit="MB", ours=tuple(values), better="less", target=target, aim=aim)


async def worker_size(system: MeasuredSystem) -> float:
    """The median of the workers."""
    return statistics.median(pss_megabytes(await system.workers()))


def sizes(system: MeasuredSystem) -> dict[str, float]:
    return {kind: sum(pss_megabytes(found)) for kind, found in system.processes().items()}


async def fork_size(forking: Asked) -> float:
    """The mean of ten that live at the same time and share what they have in common."""
    pids = [await forking.ask("hold") for _ in range(WORKERS)]
    await asyncio.sleep(0.5)
    found = pss_megabytes(psutil.Process(pid) for pid in pids)
    await forking.ask("end")
    return statistics.median(found)
