"""From the question to the first line of `run`, on an idle system, and to a job's first line.

One at a time, with a pause between. The agent or job itself reports how long it was since the
question was asked.
"""

import time
from collections.abc import Awaitable, Callable
from functools import partial

from tests.bench.figures import Figure, Report, percentile
from tests.bench.muster_system import muster
from tests.bench.peers import RunningPeer, environment, running_peer
from tests.bench.setup import Setup, interleaved
from tests.bench.waits import Reports, Requests

PEER = "taskiq"
PAUSE_SECONDS = 0.02
WARM_UP = 20
POOL = {"min_workers": 2, "max_workers": 2}


async def run(setup: Setup) -> Report:
    count = setup.scaled(200, 50)
    async with (
        muster(setup.new_folder("muster"), {"reports": POOL}) as system,
        running_peer(setup, PEER) as peer,
    ):
        with Reports() as reports, Requests(system) as requests:
            spawns = partial(measure, reports, partial(spawn, requests, reports), count)
            jobs = partial(measure, reports, partial(enqueue, peer, reports), count)
            await measure(reports, partial(spawn, requests, reports), WARM_UP)
            await measure(reports, partial(enqueue, peer, reports), WARM_UP)
            found = await interleaved(setup.rounds, {"muster": spawns, PEER: jobs})
    goals = {50: (2.0, 1.5), 99: (3.0, 2.5)}
    return Report(
        name="latency",
        figures=tuple(
            Figure(
                name=f"ask to running, idle, p{percent}",
                unit="ms",
                ours=tuple(percentile(one, percent) for one in found["muster"]),
                compared_with=f"{PEER}, enqueue to start",
                baseline=tuple(percentile(one, percent) for one in found[PEER]),
                better="less",
                target=target,
                aim=aim,
            )
            for percent, (target, aim) in goals.items()
        ),
        notes=(
            f"{count} a round, one at a time, {PAUSE_SECONDS * 1000:.0f} ms apart",
            environment(setup, PEER).versions(),
        ),
    )


async def spawn(requests: Requests, reports: Reports) -> None:
    requests.spawn(reports.port)


async def enqueue(peer: RunningPeer, reports: Reports) -> None:
    await peer.client.ask(f"enqueue 1 {reports.port}")


async def measure(reports: Reports, ask: Callable[[], Awaitable[None]], count: int) -> list[float]:
    """Milliseconds, of each question in turn."""
    found = []
    for _ in range(count):
        await ask()
        found.append(reports.next_ms())
        time.sleep(PAUSE_SECONDS)
    return found
