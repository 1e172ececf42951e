"""try scaling policies on arrivals of the past

Simulates a pool under each policy, with the decisions that a running Muster makes, and shows how
long agents would have waited and what that would have cost. A policy is a TOML file with settings
of a pool, such as `preset = "proactive"`.

  muster simulate --policy p.toml --arrivals requests.csv --agent-seconds 600
  muster simulate --policy p.toml --policy q.toml --counts taxi.csv --scale 0.04 -o json
"""

import argparse
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from eventstore.errors import MusterError
from eventstore.language.pool_config import PoolConfig
from muster.cli.arguments.command import Subparsers, declare
from muster.cli.arguments.output import add_output_flags, is_json, print_document
from muster.simulation.arrivals import Arrival, Lives, arrivals_of, counts_of
from muster.simulation.ideal import ideal_worker_seconds
from muster.simulation.pool import Outcome, SimulatedPool
from muster.terminal import render

REPORT_SECONDS = 5.0
WAITS = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "simulate", run, __doc__)
    add = parser.add_argument
    add("--policy", action="append", type=Path, required=True, metavar="FILE", dest="policies",
        help="settings of a pool, as TOML (again for more)")  # fmt: skip
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--arrivals", type=Path, metavar="FILE",
                        help="CSV, an arrival a row, its time in the first column")  # fmt: skip
    source.add_argument("--counts", type=Path, metavar="FILE",
                        help="CSV of times and how many arrived from each to the next")  # fmt: skip
    add("--scale", type=float, default=1.0, metavar="N", help="counts times N")
    add("--seed", type=int, default=1, metavar="N", help="of the times within --counts' intervals")
    add("--agent-seconds", type=_seconds, default=600.0, metavar="S", help="how long agents live")
    add("--seconds-column", default="", metavar="NAME", help="how long, by a column of --arrivals")
    add("--seconds-scale", type=float, default=1.0, metavar="F", help="times F")
    add("--agents-per-worker", type=int, metavar="N", help="instead of the policy's")
    add("--start-seconds", type=_seconds, default=5.0, metavar="S",
        help="how long a worker takes to start (default 5)")  # fmt: skip
    add_output_flags(parser)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 31_536_000:
        raise argparse.ArgumentTypeError(f"expected 0 to 31,536,000 seconds, got {text}")
    return seconds


def run(args: argparse.Namespace) -> int:
    policies = {path.stem: _policy(path, args.agents_per_worker) for path in args.policies}
    lives = Lives(args.agent_seconds, args.seconds_column, args.seconds_scale)
    if args.counts:
        arrive = counts_of(args.counts, args.scale, args.seed, lives)
    else:
        arrive = arrivals_of(args.arrivals, lives)
    slots = next(iter(policies.values())).agents_per_worker
    ideal = ideal_worker_seconds(arrive(), slots, args.start_seconds)
    rows = [
        _row(name, _simulate(name, config, arrive, args.start_seconds), ideal)
        for name, config in policies.items()
    ]
    if is_json(args):
        print_document(args, {"policies": rows, "ideal": {"worker_hours": ideal / 3600}})
    else:
        _print_table(rows, ideal)
    return 0


def _policy(path: Path, slots: int | None) -> PoolConfig:
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
        if slots:
            settings["agents_per_worker"] = slots
        return msgspec.convert(settings, PoolConfig)
    except (OSError, ValueError) as error:  # a ValidationError is one
        raise MusterError(f"{path}: {error}") from None


def _simulate(
    name: str, config: PoolConfig, arrive: Callable[[], Iterator[Arrival]], start_seconds: float
) -> Outcome:
    started = reported = time.monotonic()

    def report(count: int, _: float) -> None:
        nonlocal reported
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            rate = count / (reported - started)
            print(f"{name}: {count:,} arrivals, {rate:,.0f} a second", file=sys.stderr)

    return SimulatedPool(config.scale_policy, start_seconds).run(arrive(), report)


def _row(name: str, outcome: Outcome, ideal: float) -> dict[str, Any]:
    return {
        "name": name,
        "arrivals": outcome.arrivals,
        "wait_seconds": {key: outcome.wait_seconds(share) for key, share in WAITS.items()},
        "worker_hours": outcome.worker_seconds / 3600,
        "slack": outcome.worker_seconds / ideal - 1 if ideal else 0.0,
        "starts": outcome.starts,
        "stops": outcome.stops,
        "moves": 0,
        "turns": outcome.turns,
    }


def _print_table(rows: list[dict[str, Any]], ideal: float) -> None:
    names = ("WAIT P50", "P99", "P99.9", "MAX", "WORKER-HOURS", "SLACK", "STARTS", "STOPS", "TURNS")
    columns = (render.Column("POLICY"), *(render.Column(name, right=True) for name in names))
    cells = [
        (
            row["name"],
            *(f"{seconds:.1f} s" for seconds in row["wait_seconds"].values()),
            f"{row['worker_hours']:,.1f}",
            f"{row['slack']:.1%}",
            *(f"{row[key]:,}" for key in ("starts", "stops", "turns")),
        )
        for row in rows
    ]
    render.show(render.Table(columns, cells))
    arrivals, hours = rows[0]["arrivals"], f"{ideal / 3600:,.1f} worker-hours"
    print(f"\n{arrivals:,} arrivals; {hours} are possible where all of them are known before")
