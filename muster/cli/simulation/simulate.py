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

from eventstore.language.pool_config import PoolConfig, in_words
from muster.cli.arguments.command import BadInput, Subparsers, declare
from muster.cli.arguments.output import add_output_flags, is_json, print_document
from muster.cli.arguments.values import seconds
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
    add("--scale", metavar="N", help="counts times N")
    add("--seed", type=int, metavar="N", help="of the times within --counts' intervals")
    add("--agent-seconds", default="600", metavar="S", help="how long agents live (default 600)")
    add("--seconds-column", metavar="NAME", help="how long, by a column of --arrivals")
    add("--seconds-scale", metavar="F", help="times F")
    add("--agents-per-worker", type=int, metavar="N", help="instead of the policy's")
    add("--start-seconds", default="5", metavar="S",
        help="how long a worker takes to start (default 5)")  # fmt: skip
    add_output_flags(parser)


def run(args: argparse.Namespace) -> int:
    policies = _policies(args)
    slots = next(iter(policies.values())).agents_per_worker
    start_seconds = seconds(args.start_seconds, "--start-seconds")
    arrive = _arrivals(args)
    ideal = ideal_worker_seconds(arrive(), slots, start_seconds)
    rows = [
        _row(name, _simulate(name, config, arrive, start_seconds), ideal)
        for name, config in policies.items()
    ]
    if is_json(args):
        print_document(args, {"policies": rows, "ideal": {"worker_hours": ideal / 3600}})
    else:
        _print_table(rows, ideal)
    return 0


def _policies(args: argparse.Namespace) -> dict[str, PoolConfig]:
    """By name. Raises `BadInput`."""
    policies: dict[str, PoolConfig] = {}
    for path in args.policies:
        if path.stem in policies:
            raise BadInput(f"--policy: two are named {path.stem}")
        policies[path.stem] = _policy(path, args.agents_per_worker)
    sizes = sorted({config.agents_per_worker for config in policies.values()})
    if len(sizes) > 1:
        found = " and ".join(map(str, sizes))
        raise BadInput(f"workers of {found} slots cannot be compared: use --agents-per-worker")
    return policies


def _arrivals(args: argparse.Namespace) -> Callable[[], Iterator[Arrival]]:
    """Raises `BadInput` where a flag is for the other kind of file, and `FileError`."""
    others = {"--seconds-column": args.seconds_column, "--seconds-scale": args.seconds_scale}
    if args.arrivals:
        others = {"--scale": args.scale, "--seed": args.seed}
    if wrong := [flag for flag, value in others.items() if value is not None]:
        kind = "--counts" if args.arrivals else "--arrivals"
        raise BadInput(f"{wrong[0]}: only with {kind}")
    lives = Lives(
        seconds(args.agent_seconds, "--agent-seconds"),
        args.seconds_column or "",
        _number(args.seconds_scale, "--seconds-scale"),
    )
    if args.arrivals:
        return arrivals_of(args.arrivals, lives)
    seed = 1 if args.seed is None else args.seed
    return counts_of(args.counts, _number(args.scale, "--scale"), seed, lives)


def _number(text: str | None, flag: str) -> float:
    try:
        number = float(text or "1")
    except ValueError:
        number = 0.0
    if not 0 < number < 1e12:
        raise BadInput(f"{flag}: expected a number above 0, got {text}")
    return number


def _policy(path: Path, slots: int | None) -> PoolConfig:
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
        if slots:
            settings["agents_per_worker"] = slots
        return msgspec.convert(settings, PoolConfig)
    except msgspec.ValidationError as error:
        what, _, key = in_words(error).partition(" - at `$.")
        raise BadInput(f"{path}: {f'{key[:-1]}: ' if key else ''}{what}") from None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    except ValueError as error:  # it is no TOML
        raise BadInput(f"{path}: {error}") from None


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
            f"{row['worker_hours']:,.2f}",
            f"{row['slack']:.1%}",
            *(f"{row[key]:,}" for key in ("starts", "stops", "turns")),
        )
        for row in rows
    ]
    render.show(render.Table(columns, cells))
    arrivals, hours = rows[0]["arrivals"], f"{ideal / 3600:,.2f} worker-hours"
    print(f"\n{arrivals:,} arrivals; {hours} are possible where all of them are known before")
