"""A hundred thousand spawns at once, and an unhurried load: the rates, and leases that were lost.

The unhurried load has 64 clients that each wait for an answer before they ask again; its spawns are
run before the next ones are sent. The flood is accepted as fast as the gateway takes it.
"""

from contextlib import closing

from tests.bench.figures import Figure, Report
from tests.bench.muster_system import MeasuredSystem, muster
from tests.bench.setup import Setup

POOL = {"min_workers": 4, "max_workers": 4, "backlog_limit": 1_000_000}
LOST = "SELECT count(*) FROM events WHERE type IN ('worker.suspect', 'worker.lost')"


async def run(setup: Setup) -> Report:
    flood, plain = setup.scaled(100_000, 10_000), setup.scaled(2_000, 1_000)
    async with muster(setup.new_folder("muster"), {"returns": POOL}) as system:
        await system.spawned("returns", 500)
        unhurried = [(await system.spawned("returns", plain)).rate for _ in range(setup.rounds)]
        flooded = await system.spawned("returns", flood, connections=500)
        unhurried += [(await system.spawned("returns", plain)).rate for _ in range(setup.rounds)]
        lost = leases_lost(system)
        await system.verify()
    middle = sorted(unhurried)[len(unhurried) // 2]
    return Report(
        name="flood",
        figures=(
            Figure(
                name=f"rate of {flood:,} spawns at once",
                unit="/s",
                ours=(flooded.rate,),
                compared_with="the unhurried rate before and after",
                baseline=(middle,),
                target=0.8,
                aim=1.0,
            ),
            Figure(name="the unhurried rate", unit="/s", ours=tuple(unhurried)),
            Figure(name="accepted meanwhile", unit="/s", ours=(flooded.accepted_rate,)),
            Figure(
                name="leases lost or suspected",
                unit="",
                ours=(float(lost),),
                better="less",
                target=0.0,
            ),
        ),
        notes=(f"{plain:,} spawns a round of the unhurried load",),
    )


def leases_lost(system: MeasuredSystem) -> int:
    with closing(system.open_views()) as views:
        return int(views.execute(LOST).fetchone()[0])
