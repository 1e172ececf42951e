"""Fails if a process needs more CPU for a spawn than `ratios.toml` says, and shows its profile.

    python -m tests.bench.keep            compare
    python -m tests.bench.keep --write    write the ratios, with a change that is meant to move them

A ratio is the CPU time of a process for one spawn, by that of a bare gateway and its Redis for the
same appends (see `bare_gateway`) in the same run: a slower machine slows both. Both are the minimum
over their rounds, since other work on a machine can only add to them. Rounds are added while a
process exceeds its limit; what still exceeds it after the last round is slower.
"""

import argparse
import asyncio
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.bench.benchmarks.end_to_end import POOL, POOLS
from tests.bench.flames import SHOWN, busiest, hottest, record
from tests.bench.muster_system import MeasuredSystem, Round, muster
from tests.bench.roles import bare_gateway
from tests.bench.setup import Setup, interleaved, new_setup
from tests.bench.table import rows_of

RATIOS = Path(__file__).with_name("ratios.toml")
ROUNDS, ROUNDS_MAX, SPAWNS, BARE = 4, 12, 1500, 4000
ROOM = 1.5
"""A ratio may be so many times what was committed: on a machine with nine busy processes for each
core, 1.46 was seen."""
ROOM_OF_SUM = 0.05
"""And by so much of the pool's sum more: what costs nearly nothing varies by factors, and part is
paid by time, of which a spawn takes more on a slower machine."""
PROFILE_SECONDS = 5
HEAD = """\
# CPU time of each process for one spawn, by that of the bare appends in the same run.
# Written by `python -m tests.bench.keep --write`; compared by `.ci/bench`.
"""

Ratios = Mapping[str, Mapping[str, float]]


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.bench.keep", description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace the committed ratios")
    return asyncio.run(run(write=parser.parse_args().write))


async def run(*, write: bool) -> int:
    with new_setup(quick=True) as setup:
        async with (
            bare_gateway(setup) as bare,
            muster(setup.new_folder("muster"), dict.fromkeys(POOLS, POOL)) as system,
        ):
            for pool in POOLS:
                await system.spawned(pool, 2000)
            await bare.accept(500)
            parts = {pool: partial(system.spawned, pool, SPAWNS) for pool in POOLS}
            parts["bare"] = partial(bare.accept, BARE)
            committed = tomllib.loads(RATIOS.read_text())
            found = await interleaved(ROUNDS_MAX if write else ROUNDS, parts)
            measured = ratios_of(found)
            while (worse := slower(measured, committed)) and len(found["bare"]) < ROUNDS_MAX:
                more = await interleaved(ROUNDS, parts)
                found = {name: [*rounds, *more[name]] for name, rounds in found.items()}
                measured = ratios_of(found)
            if write:
                RATIOS.write_text(HEAD + as_toml(measured))
                return 0
            print(f"{table(measured, committed)}\n\nof {len(found['bare'])} rounds")
            if not worse and slower(committed, measured):
                print("\nsome need much less than was committed: keep that with --write")
            for pool, kind in worse:
                print(f"\n{pool}: {kind} needs more than it did; where its time goes:")
                print(await profiled(setup, system, pool, kind))
    return 1 if worse else 0


def ratios_of(found: Mapping[str, Sequence[Round]]) -> Ratios:
    """Of each pool and process: the least of the rounds by the least of the bare ones."""
    bare = min(one.cpu_sum for one in found["bare"])
    return {
        pool: {
            kind: min(one.cpu[kind] for one in found[pool]) / bare for kind in found[pool][0].cpu
        }
        for pool in POOLS
    }


def slower(measured: Ratios, committed: Ratios) -> list[tuple[str, str]]:
    """The pools and processes that need more than committed, with room for noise.

    A process that was not committed counts as slower; so does one that was not measured, since it
    would never be compared again.
    """
    worse = []
    for pool in measured.keys() | committed.keys():
        ours, theirs = measured.get(pool, {}), committed.get(pool, {})
        more = ROOM_OF_SUM * sum(theirs.values())
        both = ours.keys() & theirs.keys()
        above = {kind for kind in both if ours[kind] > theirs[kind] * ROOM + more}
        worse += [(pool, kind) for kind in above | (ours.keys() ^ theirs.keys())]
    return sorted(worse)


def table(measured: Ratios, committed: Ratios) -> str:
    rows = [("pool", "process", "measured", "committed")]
    for pool, kinds in measured.items():
        for kind, ratio in kinds.items():
            was = committed.get(pool, {}).get(kind)
            rows.append((pool, kind, f"{ratio:.2f}", "" if was is None else f"{was:.2f}"))
    return "\n".join(rows_of(rows))


def as_toml(measured: Ratios) -> str:
    return (
        "\n".join(
            f"\n[{pool}]\n" + "\n".join(f"{kind} = {ratio:.2f}" for kind, ratio in kinds.items())
            for pool, kinds in measured.items()
        )
        + "\n"
    )


async def profiled(setup: Setup, system: MeasuredSystem, pool: str, kind: str) -> str:
    """The hottest functions of the process (of one of several) under the same load; of Redis, what
    its commands took."""
    if kind == "redis":
        return await profiled_redis(system, pool)
    processes = system.processes().get(kind)
    if not processes:
        return f"there is no {kind}"
    load = asyncio.create_task(keep_loaded(system, pool))
    try:
        pid = (await busiest(processes)).pid
        stacks = await asyncio.to_thread(
            record, setup, pid, PROFILE_SECONDS, setup.folder / f"{pool}-{kind}"
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no profile: {error} {getattr(error, 'stderr', '')!r}"
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    return hottest(stacks)


async def profiled_redis(system: MeasuredSystem, pool: str) -> str:
    """The commands that took most of its time; a script's has those that it calls."""
    with system.redis() as client:
        client.config_resetstat()
        await system.spawned(pool, SPAWNS)
        stats = sorted(client.info("commandstats").items(), key=lambda item: -item[1]["usec"])
    rows = [("command", "calls a spawn", "µs a spawn")]
    for command, stat in stats[:SHOWN]:
        calls, microseconds = stat["calls"] / SPAWNS, stat["usec"] / SPAWNS
        rows.append((command.removeprefix("cmdstat_"), f"{calls:.2f}", f"{microseconds:.1f}"))
    return "\n".join(rows_of(rows))


async def keep_loaded(system: MeasuredSystem, pool: str) -> None:
    while True:
        await system.spawned(pool, 2000)


if __name__ == "__main__":
    sys.exit(main())
