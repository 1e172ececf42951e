"""The processor time of a system with a hundred idle agents, in percent of a core.

A process that has waited finds the processor cold: a run of a few instructions costs many times
what it costs in a loop, on virtual machines above all. What a bare process pays for that on the
same machine is measured in each round.
"""

import sys
import time
from itertools import chain

from msgspec import Struct

from tests.bench.asked import Asked, asked
from tests.bench.figures import Breakdown, Figure, Report, median_rows
from tests.bench.muster_system import MeasuredSystem, idle_percent, muster
from tests.bench.processes import runs_of
from tests.bench.setup import Setup

WORKERS, AGENTS = 10, 100
POOL = {"min_workers": WORKERS, "max_workers": WORKERS, "max_idle_time": '"never"'}
BARE_RUNS = 30


class Idle(Struct, frozen=True):
    """A round: the CPU time by kind in percent of a core, and runs of threads in a second.

    `bare_ms`: what one run of a bare process costs.
    """

    cpu: dict[str, float]
    runs: float
    bare_ms: float

    @property
    def percent(self) -> float:
        return sum(self.cpu.values())


async def run(setup: Setup) -> Report:
    seconds = setup.scaled(10, 8)
    async with (
        muster(setup.new_folder("muster"), {"stays": POOL}) as system,
        asked(sys.executable, "-m", "tests.bench.bare_waits", system.redis_url) as waiting,
    ):
        await system.fill("stays", AGENTS)
        awake, asleep = [], []
        for _ in range(setup.rounds):
            awake.append(await idle(system, waiting, seconds))
            with setup.awake.paused():
                asleep.append(await idle(system, waiting, seconds))
    both = {"processors awake": awake, "processors asleep": asleep}
    return Report(
        name="idle",
        figures=tuple(one for name, rounds in both.items() for one in figures(name, rounds)),
        breakdowns=(
            Breakdown(
                title="Processor time when idle, by process",
                unit="% of a core",
                rows={
                    name: median_rows([it.cpu for it in rounds]) for name, rounds in both.items()
                },
            ),
        ),
        notes=(f"{setup.rounds} times {seconds} s",),
    )


def figures(name: str, rounds: list[Idle]) -> tuple[Figure, ...]:
    return (
        Figure(
            name=f"100 idle agents in 10 workers, {name}",
            unit="% of a core",
            ours=tuple(one.percent for one in rounds),
            better="less",
            target=1.0,
            aim=0.5,
        ),
        Figure(
            name=f"runs of their threads, {name}",
            unit="/s",
            ours=tuple(one.runs for one in rounds),
            better="less",
        ),
        Figure(
            name=f"CPU of a run, {name}",
            unit="ms",
            ours=tuple(one.percent * 10 / one.runs for one in rounds),
            compared_with="a bare process that sleeps, then pings Redis",
            baseline=tuple(one.bare_ms for one in rounds),
            better="less",
        ),
    )


async def idle(system: MeasuredSystem, waiting: Asked, seconds: float) -> Idle:
    began, before = time.perf_counter(), runs(system)
    cpu = await idle_percent(system, seconds)
    frequency = (runs(system) - before) / (time.perf_counter() - began)
    return Idle(cpu, frequency, float(await waiting.ask(str(BARE_RUNS))))


def runs(system: MeasuredSystem) -> int:
    return runs_of(chain.from_iterable(system.processes().values()))
