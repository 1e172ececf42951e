"""Accepted spawns per second of one gateway, and of a bare handler that makes the same appends.

Each has a Redis of its own; neither has workers, supervisor or projector. The pool's backlog has no
limit that is met.
"""

from functools import partial

from tests.bench.figures import Breakdown, Figure, Report, median_rows
from tests.bench.roles import bare_gateway, lone_gateway
from tests.bench.setup import Setup, interleaved

WARM_UP = 500


async def run(setup: Setup) -> Report:
    count = setup.scaled(5000, 2000)
    async with bare_gateway(setup) as handler, lone_gateway(setup) as gateway:
        await handler.accept(WARM_UP)
        await gateway.accept(WARM_UP)
        parts = {
            "muster": partial(gateway.accept, count),
            "bare": partial(handler.accept, count * 2),
        }
        found = await interleaved(setup.rounds, parts)
    muster, bare = found["muster"], found["bare"]
    return Report(
        name="accept",
        figures=(
            Figure(
                name="accepted at one gateway",
                unit="/s",
                ours=tuple(one.rate for one in muster),
                compared_with="bare handler, one raw script call for many",
                baseline=tuple(one.rate for one in bare),
                target=0.4,
                aim=0.7,
            ),
            Figure(
                name="CPU of one acceptance",
                unit="µs",
                ours=tuple(one.cpu_sum for one in muster),
                compared_with="the same",
                baseline=tuple(one.cpu_sum for one in bare),
                over="ours",
            ),
        ),
        breakdowns=(
            Breakdown(
                title="CPU of one acceptance, by process",
                unit="µs",
                rows={n: median_rows([one.cpu for one in rounds]) for n, rounds in found.items()},
            ),
        ),
        notes=(f"{count:,} requests a round, twice as many of the bare handler, 64 connections",),
    )
