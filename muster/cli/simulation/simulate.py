"""try scaling policies on arrivals of the past

Simulates a pool under each policy, with the decisions that a running Muster makes, and shows how
long agents would have waited and what that would have cost. A policy is a TOML file with settings
of a pool, such as `preset = "proactive"`.

  muster simulate --policy p.toml --arrivals requests.csv --agent-seconds 600
  muster simulate --policy p.toml --policy q.toml --counts taxi.csv --scale 0.04 -o json
  muster simulate --policy p.toml --pool developer_pool --from 7d -o png > policies.png
"""

import argparse
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from eventstore.language.pool_config import PoolConfig, in_words
from muster.cli.arguments import targets
from muster.cli.arguments.command import BadInput, Refused, Subparsers, declare
from muster.cli.arguments.output import JSON, is_json, print_document
from muster.cli.arguments.values import seconds
from muster.cli.simulation.history import recorded
from muster.cli.simulation.progress import Progress
from muster.simulation.arrivals import Lives, Load, arrivals_of, counts_of
from muster.simulation.ideal import Ideal, ideal_of
from muster.simulation.outcome import Outcome
from muster.simulation.picture import draw, require_matplotlib
from muster.simulation.pool import SimulatedPool
from muster.terminal import render

PICTURE = "png"
FORMATS = ("table", *JSON, PICTURE)
OF_POOL = ("agents_per_worker", "min_workers", "max_workers")
"""Of these settings those of the pool count where a policy does not have them."""
START_SECONDS = 5.0
"""How long a worker takes to start where nothing is known of that."""
SOURCES = {
    "scale": "counts", "seed": "counts", "seconds_column": "arrivals", "seconds_scale": "arrivals",
    "since": "pool", "until": "pool", "data_dir": "pool", "database_url": "pool",
}  # fmt: skip
"""Flags that belong to one source of arrivals."""
NAMES = {"since": "--from", "until": "--to"}
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
    source.add_argument("--pool", metavar="POOL",
                        help="what a pool has gone through, from the archive")  # fmt: skip
    add("--from", metavar="TIME", dest="since", help="of --pool: from then on (default: all)")
    add("--to", metavar="TIME", dest="until", help="until then; such as 10m, 14:03, 2026-11-24")
    add("--scale", metavar="N", help="counts times N")
    add("--seed", type=int, metavar="N", help="of the times within --counts' intervals")
    add("--agent-seconds", metavar="S", help="how long agents live (default 600)")
    add("--seconds-column", metavar="NAME", help="how long, by a column of --arrivals")
    add("--seconds-scale", metavar="F", help="times F")
    add("--agents-per-worker", type=int, metavar="N", help="instead of the policy's or the pool's")
    add("--start-seconds", metavar="S",
        help="how long a worker takes to start (default 5; with --pool as measured)")  # fmt: skip
    flags = {name: targets.LOG_FLAGS[name] for name in ("--data-dir", "--database-url")}
    targets.add_flags(parser, flags, formats=FORMATS)


class _Tried(Struct, frozen=True):
    """What policies are tried on."""

    load: Load
    start_seconds: float = START_SECONDS
    settings: Mapping[str, Any] = {}
    """What counts where a policy does not say it."""
    recorded: Outcome | None = None
    """What has really happened, if that is known."""


def run(args: argparse.Namespace) -> int:
    _check_flags(args)
    if args.output == PICTURE:
        if render.at_terminal():
            raise BadInput(
                "-o png: this is a terminal; write it to a file: … -o png > policies.png"
            )
        require_matplotlib()
    _policies(args, {})  # before what takes longer
    tried = _of_pool(args) if args.pool else _Tried(_of_file(args))
    policies = _policies(args, tried.settings)
    start_seconds = tried.start_seconds
    if args.start_seconds is not None:
        start_seconds = seconds(args.start_seconds, "--start-seconds")
    slots = next(iter(policies.values())).agents_per_worker
    ideal = ideal_of(tried.load.everyone(), slots, start_seconds)
    outcomes = {
        name: _simulate(name, config, tried.load, start_seconds, ideal)
        for name, config in policies.items()
    }
    real = {} if tried.recorded is None else {"recorded": tried.recorded}
    rows = [_row(name, outcome, ideal) for name, outcome in {**outcomes, **real}.items()]
    if is_json(args):
        hours = {"worker_hours": ideal.worker_seconds / 3600}
        found = {"policies": rows[: len(outcomes)], "ideal": hours}
        print_document(args, {**found, "recorded": rows[-1] if real else None})
    elif args.output == PICTURE:
        draw(sys.stdout.buffer, ideal, {**outcomes, **real})
    else:
        _print_table(rows, ideal)
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    """Raises `BadInput` where a flag is for another source of arrivals."""
    for name, source in SOURCES.items():
        if getattr(args, name) is not None and getattr(args, source) is None:
            flag = NAMES.get(name, f"--{name.replace('_', '-')}")
            raise BadInput(f"{flag}: only with --{source}")
    if args.pool and args.agent_seconds is not None:
        raise BadInput("--agent-seconds: agents live as long as they did in the --pool")
    if args.start_seconds is not None:
        seconds(args.start_seconds, "--start-seconds")


def _policies(args: argparse.Namespace, usual: Mapping[str, Any]) -> dict[str, PoolConfig]:
    """By name. Raises `BadInput`."""
    own = {"agents_per_worker": args.agents_per_worker} if args.agents_per_worker else {}
    policies: dict[str, PoolConfig] = {}
    for path in args.policies:
        if path.stem in policies:
            raise BadInput(f"--policy: two are named {path.stem}")
        policies[path.stem] = _policy(path, usual, own)
    sizes = sorted({config.agents_per_worker for config in policies.values()})
    if len(sizes) > 1:
        found = " and ".join(map(str, sizes))
        raise BadInput(f"workers of {found} slots cannot be compared: use --agents-per-worker")
    return policies


def _of_pool(args: argparse.Namespace) -> _Tried:
    """Raises `BadInput`, `Refused`, and `ServiceUnreachable`."""
    config, recording = recorded(args)
    settings = {name: getattr(config, name) for name in OF_POOL}
    load, outcome = recording.load, recording.outcome
    if not outcome.arrivals and not load.present:
        raise Refused(f"pool {args.pool}: no agent was there then")
    start_seconds = recording.start_seconds
    return _Tried(
        load, START_SECONDS if start_seconds is None else start_seconds, settings, outcome
    )


def _of_file(args: argparse.Namespace) -> Load:
    """Raises `BadInput`, and `FileError`."""
    lives = Lives(
        seconds(args.agent_seconds or "600", "--agent-seconds"),
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


def _policy(path: Path, usual: Mapping[str, Any], own: Mapping[str, Any]) -> PoolConfig:
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert({**usual, **settings, **own}, PoolConfig)
    except msgspec.ValidationError as error:
        what, _, key = in_words(error).partition(" - at `$.")
        raise BadInput(f"{path}: {f'{key[:-1]}: ' if key else ''}{what}") from None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    except ValueError as error:  # it is no TOML
        raise BadInput(f"{path}: {error}") from None


def _simulate(
    name: str, config: PoolConfig, load: Load, start_seconds: float, ideal: Ideal
) -> Outcome:
    report = Progress(name, "arrivals")
    pool = SimulatedPool(config.scale_policy, start_seconds, ideal.since, ideal.until)
    return pool.run(load, lambda count, _: report(count))


def _row(name: str, outcome: Outcome, ideal: Ideal) -> dict[str, Any]:
    least = ideal.worker_seconds
    return {
        "name": name,
        "arrivals": outcome.arrivals,
        "wait_seconds": {key: outcome.wait_seconds(share) for key, share in WAITS.items()},
        "worker_hours": outcome.worker_seconds / 3600,
        "slack": outcome.worker_seconds / least - 1 if least else 0.0,
        "starts": outcome.starts,
        "stops": outcome.stops,
        "moves": outcome.moves,
        "turns": outcome.turns,
    }


def _print_table(rows: list[dict[str, Any]], ideal: Ideal) -> None:
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
    arrivals, hours = rows[0]["arrivals"], f"{ideal.worker_seconds / 3600:,.2f} worker-hours"
    print(f"\n{arrivals:,} arrivals; {hours} are possible where all of them are known before")
