"""What `proactive` makes of generated loads: a table of docs/scaling.md.

    python -m tests.generated_loads [SEED …]

Poisson arrivals with lives that are exponentially distributed; ten agents a worker, which takes 30
seconds to start. Waits are those after the first fifteen minutes: a pool begins empty.
"""

import argparse
import math
import random
from collections.abc import Callable, Iterator

from msgspec import Struct

from eventstore.language.scale_policy import PRESETS
from muster.simulation.arrivals import Arrival, Load
from muster.simulation.ideal import ideal_of
from muster.simulation.pool import SimulatedPool

SLOTS, START_SECONDS, SETTLED_SECONDS = 10, 30.0, 900.0
HOUR, DAY = 3_600.0, 86_400.0
WINDOW_SECONDS = PRESETS["proactive"].down.window_seconds
COLUMNS = ("load", "seed", "arrivals", "waited", "longest wait", "slack", "turns", "windows")


class Generated(Struct, frozen=True):
    """Arrivals a second at a time; for how long; and how long an agent lives on average."""

    rate: Callable[[float], float]
    seconds: float
    life_seconds: float


LOADS = {
    "noisy plateau": Generated(lambda _: 1.0, 4 * HOUR, 200.0),
    "daily curve": Generated(lambda at: 1.2 + math.sin(at / DAY * 2 * math.pi), DAY, 300.0),
    "saw-tooth": Generated(lambda at: 0.2 + 2 * (at % HOUR) / HOUR, 6 * HOUR, 200.0),
}


class WatchedPool(SimulatedPool):
    """Notes who waited, and for how long, once it had time to settle."""

    settles_at = 0.0
    late: list[float] = []  # noqa: RUF012  # replaced for each

    def _claim(self, worker: int, now: float) -> None:
        came = self._waiting[0][0]
        if came > self.settles_at:
            self.late.append(now - came)
        super()._claim(worker, now)


def arrivals(load: Generated, seed: int) -> Iterator[Arrival]:
    """By thinning: of arrivals at the highest rate those are left out that are too many."""
    chance, at = random.Random(seed), 0.0
    highest = max(load.rate(float(at)) for at in range(0, int(load.seconds), 10))
    while (at := at + chance.expovariate(highest)) < load.seconds:
        if chance.random() < load.rate(at) / highest:
            yield at, chance.expovariate(1 / load.life_seconds)


def row(name: str, seed: int) -> list[str]:
    came = list(arrivals(LOADS[name], seed))
    first, last = came[0][0], came[-1][0]
    pool = WatchedPool(PRESETS["proactive"], START_SECONDS, first, last)
    pool.settles_at, pool.late = first + SETTLED_SECONDS, []
    outcome = pool.run(Load(lambda: iter(came)), lambda *_: None)
    least = ideal_of(came, SLOTS, START_SECONDS).worker_seconds
    return [
        name,
        str(seed),
        f"{outcome.arrivals:,}",
        str(len(pool.late)),
        f"{max(pool.late, default=0.0):.1f} s",
        f"{outcome.worker_seconds / least - 1:.1%}",
        str(outcome.turns),
        f"{(last - first) / WINDOW_SECONDS:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.generated_loads", description=__doc__)
    parser.add_argument("seeds", nargs="*", type=int, default=[1, 2, 3])
    seeds = parser.parse_args().seeds
    for cells in (COLUMNS, ["---"] * len(COLUMNS)):
        print(f"| {' | '.join(cells)} |")
    for name in LOADS:
        for seed in seeds:
            print(f"| {' | '.join(row(name, seed))} |", flush=True)


if __name__ == "__main__":
    main()
