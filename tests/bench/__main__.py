"""Measure Muster, the bare operations that it is made of, and other projects.

    python -m tests.bench                       everything; about half an hour
    python -m tests.bench --quick --only end-to-end
    python -m tests.bench --docs                and write docs/performance.md from all results

It needs the environment of the tests. Each benchmark starts the servers that it needs, in folders
of its own. Results are written to a folder as NAME.json and NAME.md; a later run replaces those
that it measured. Peers are installed into environments of their own on first use.
"""

import argparse
import asyncio
import datetime
import importlib
import logging
import os
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path

import msgspec
import psutil
import structlog

from tests.bench import page
from tests.bench.figures import Report
from tests.bench.peers import PEERS
from tests.bench.setup import cache_folder, new_setup
from tests.bench.table import as_markdown

ROOT = Path(__file__).parents[2]
BENCHMARKS = (
    "end-to-end", "accept", "latency", "spawn-worker", "replay", "event-library", "memory", "idle",
    "pools", "lag", "flood", "ended", "growth", "many-workers", "burst", "actors", "explain",
    "million", "dashboards", "prune",
)  # fmt: skip


def main() -> int:
    options = arguments().parse_args()
    if Path.cwd() != ROOT:
        os.chdir(ROOT)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    failed = []
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or BENCHMARKS:
        try:
            report = measure(name, options)
        except Exception as error:  # noqa: BLE001  # the others are measured all the same
            failed.append(name)
            print(f"## {name}\n\nfailed:", flush=True)
            traceback.print_exception(error)
            continue
        (options.out / f"{name}.json").write_bytes(msgspec.json.encode(report))
        (options.out / f"{name}.md").write_text(as_markdown(report))
        print(as_markdown(report), flush=True)
    if options.docs:
        page.write(options.out, ROOT / "docs", BENCHMARKS)
    return 1 if failed else 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m tests.bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    only = f"may be repeated; of {', '.join(BENCHMARKS)}"
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, metavar="NAME", help=only)
    parser.add_argument("--peers", help=f"separated by commas; of {', '.join(PEERS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="of the results")
    parser.add_argument("--docs", action="store_true", help="write docs/performance.md")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="of peers")
    return parser


def measure(name: str, options: argparse.Namespace) -> Report:
    """Run one benchmark in a folder of its own."""
    module = importlib.import_module(f"tests.bench.benchmarks.{name.replace('-', '_')}")
    wanted = options.peers or ("taskiq" if options.quick else ",".join(PEERS))
    began, load = time.monotonic(), os.getloadavg()[0]
    peers = tuple(filter(None, wanted.split(",")))
    with new_setup(quick=options.quick, cache=options.cache, peers=peers) as setup:
        report: Report = asyncio.run(module.run(setup))
    quick = " --quick" if options.quick else ""
    return msgspec.structs.replace(
        report,
        command=f"python -m tests.bench{quick} --only {name}",
        commit=commit(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=machine(),
        seconds=time.monotonic() - began,
        load=load,
    )


def commit() -> str:
    """The abbreviated id of the commit, with a mark if the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """Processor, cores, memory, kernel and Python."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB;"
        f" {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
