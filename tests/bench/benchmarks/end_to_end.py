"""Spawns through HTTP, from request to views, and the jobs of queues, from enqueue to result.

Agents return at once. Everything is logged and projected into SQLite. CPU is that of all processes
of a system: gateway, projector, workers, Redis and supervisor; of a peer the client that enqueues,
its workers and its Redis. Who sends requests to the gateway is no part of the system.
"""

from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial

from tests.bench.figures import Breakdown, Figure, Report, median_rows
from tests.bench.muster_system import MeasuredSystem, Round, muster
from tests.bench.peers import environment, running_peer
from tests.bench.setup import Setup, interleaved

POOL = {"min_workers": 4, "max_workers": 4, "backlog_limit": 1_000_000}
POOLS = ("returns", "starts")
COMPARED = "taskiq"
"""The peer of the targets."""
WARM_UP = 500
COMPLETED = """SELECT count(*) FROM agents
WHERE pool_name = ? AND status = 'terminated' AND reason = 'completed'"""
SHARE_WITH_START = 0.8
"""Of the target, for agents with a `start` of their own."""


async def run(setup: Setup) -> Report:
    count = setup.scaled(3000, 1000)
    versions = [environment(setup, peer).versions() for peer in setup.peers]
    async with muster(setup.new_folder("muster"), dict.fromkeys(POOLS, POOL)) as system:
        for pool in POOLS:
            await system.spawned(pool, WARM_UP)
        parts: dict[str, Callable[[], Awaitable[Round]]] = {
            **{pool: partial(system.spawned, pool, count) for pool in POOLS},
            **{peer: partial(jobs, setup, peer, count_of(peer, count)) for peer in setup.peers},
        }
        found = await interleaved(setup.rounds, parts)
        await check(system, WARM_UP + count * setup.rounds)
    return Report(
        name="end-to-end",
        figures=tuple(figures(found, setup.peers)),
        breakdowns=(
            Breakdown(
                title="CPU of one spawn or job, by process",
                unit="µs",
                rows={n: median_rows([one.cpu for one in rounds]) for n, rounds in found.items()},
            ),
        ),
        notes=(
            f"{count:,} spawns or jobs a round (a third for peers other than {COMPARED})",
            "64 clients, 4 workers of 10",
            *versions,
        ),
    )


def count_of(peer: str, count: int) -> int:
    """Some peers are slow; a third is enough for those that are not what the target is about."""
    return count if peer == COMPARED else count // 3


async def jobs(setup: Setup, name: str, count: int) -> Round:
    """A round of a peer, which is started for it: none runs while another is measured."""
    async with running_peer(setup, name) as peer:
        return await peer.run_jobs(count)


async def check(system: MeasuredSystem, spawned: int) -> None:
    """That what was measured was done: every agent completed, and the views equal the log."""
    with closing(system.open_views()) as views:
        for pool in POOLS:
            assert views.execute(COMPLETED, (pool,)).fetchone() == (spawned,)
    await system.verify()


def figures(found: dict[str, list[Round]], peers: tuple[str, ...]) -> list[Figure]:
    made = []
    for pool in POOLS:
        share = SHARE_WITH_START if pool == "starts" else 1.0
        what = "with a `start`" if pool == "starts" else "plain"
        for peer in peers:
            has_target = peer == COMPARED
            made += [
                Figure(
                    name=f"rate, {what}",
                    unit="/s",
                    ours=tuple(one.rate for one in found[pool]),
                    compared_with=peer,
                    baseline=tuple(one.rate for one in found[peer]),
                    target=1.0 * share if has_target else None,
                    aim=2.0 * share if has_target else None,
                ),
                Figure(
                    name=f"CPU, {what}",
                    unit="µs",
                    ours=tuple(one.cpu_sum for one in found[pool]),
                    compared_with=peer,
                    baseline=tuple(one.cpu_sum for one in found[peer]),
                    over="ours",
                    target=1.1 * share if has_target else None,
                    aim=2.0 * share if has_target else None,
                ),
            ]
        made.append(
            Figure(
                name=f"accepted, {what}",
                unit="/s",
                ours=tuple(one.accepted_rate for one in found[pool]),
            )
        )
    return made
