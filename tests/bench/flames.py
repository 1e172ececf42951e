"""Profiles of running processes with py-spy, in an environment of its own.

python -m tests.bench.flames FOLDER       flame graphs of busy processes, one of each kind
"""

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil

from tests.bench.environments import Environment
from tests.bench.flame_graph import draw
from tests.bench.muster_system import muster
from tests.bench.processes import seconds_of
from tests.bench.setup import Setup, new_setup

RATE = 250
"""Samples per second."""
SHOWN = 25


def record(setup: Setup, pid: int, seconds: int, target: Path) -> str:
    """Stacks of a process, one line each with the number of its samples.

    Only of what holds the interpreter's lock: threads that wait are not taken for busy ones.

    Raises subprocess.CalledProcessError, OSError.
    """
    environment = Environment(setup.cache, "py-spy", ("py-spy",))
    environment.make()
    command: list[str | Path] = [
        environment.bin / "py-spy",
        "record",
        "--pid",
        str(pid),
        "--rate",
        str(RATE),
    ]
    options = [
        "--gil",
        "--function",
        "--duration",
        str(seconds),
        "--format",
        "raw",
        "--output",
        str(target),
    ]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return target.read_text()


def hottest(stacks: str) -> str:
    """The functions with most samples: in themselves, and with all that they call."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        own[frames[-1]] += int(number)
        for frame in set(frames):
            total[frame] += int(number)
    samples = max(1, own.total())
    lines = [f"{'own':>7} {'total':>7}"]
    for frame, count in own.most_common(SHOWN):
        lines.append(f"{count / samples:7.1%} {total[frame] / samples:7.1%}  {frame}")
    return "\n".join(lines)


async def busiest(processes: list[psutil.Process]) -> psutil.Process:
    """Of several, the one that uses most CPU time in this second."""
    before = [seconds_of(process) for process in processes]
    await asyncio.sleep(1)
    used = [seconds_of(process) - was for process, was in zip(processes, before, strict=True)]
    return processes[used.index(max(used))]


async def graphs(folder: Path) -> None:
    """Flame graphs of a gateway, a projector and a worker under load."""
    from tests.bench.benchmarks.end_to_end import POOL
    from tests.bench.keep import keep_loaded

    folder.mkdir(parents=True, exist_ok=True)
    with new_setup(quick=True) as setup:
        async with muster(setup.new_folder("muster"), {"returns": POOL}) as system:
            await system.spawned("returns", 500)
            load = asyncio.create_task(keep_loaded(system, "returns"))
            for kind in ("gateway", "projector", "workers"):
                pid = (await busiest(system.processes()[kind])).pid
                stacks = await asyncio.to_thread(record, setup, pid, 10, setup.folder / kind)
                title = f"{kind.removesuffix('s')} under load"
                (folder / f"{kind}.svg").write_text(draw(title, stacks.splitlines()))
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(graphs(Path(sys.argv[1])))
