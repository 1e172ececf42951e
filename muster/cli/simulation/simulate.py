"""try scaling policies on arrivals of the past

Simulates a pool under each policy, with the decisions that a running Muster makes, and shows how
long agents would have waited and what that would have cost. A policy is a TOML file with settings
of a pool, such as `preset = "proactive"`.

  muster simulate --policy p.toml --arrivals requests.csv --agent-seconds 600
  muster simulate --policy p.toml --policy q.toml --counts taxi.csv --scale 0.04 -o json
  muster simulate --policy p.toml --pool developer_pool --from 7d -o png > policies.png
"""

import argparse
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from eventstore.language.consolidation import AUTO
from eventstore.language.pool_config import PoolConfig, in_words, policy_of
from muster.cli.arguments import targets
from muster.cli.arguments.command import BadInput, Refused, Subparsers, declare
from muster.cli.arguments.values import seconds
from muster.cli.simulation.history import recorded
from muster.cli.simulation.progress import Progress
from muster.cli.simulation.results import FIRST_DAYS, FORMATS, check_output, show
from muster.settings.policies import read_policy
from muster.simulation.arrivals import Lives, Load, arrivals_of, counts_of
from muster.simulation.consolidation import ConsolidatingPool
from muster.simulation.ideal import Ideal, ideal_of
from muster.simulation.outcome import Outcome
from muster.simulation.pool import SimulatedPool

START_SECONDS = 5.0
"""How long a worker takes to start where nothing is known of that."""
SOURCES = {
    "scale": "counts", "seed": "counts", "seconds_column": "arrivals", "seconds_scale": "arrivals",
    "since": "pool", "until": "pool", "data_dir": "pool", "database_url": "pool",
}  # fmt: skip
"""Flags that belong to one source of arrivals."""
NAMES = {"since": "--from", "until": "--to"}


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
    config: PoolConfig = PoolConfig()
    """Of the pool."""
    recorded: Outcome | None = None
    """What has really happened, if that is known."""


def run(args: argparse.Namespace) -> int:
    _check_flags(args)
    check_output(args)
    _policies(args, PoolConfig(max_workers=10_000))  # before what takes longer
    tried = _of_pool(args) if args.pool else _Tried(_of_file(args))
    policies = _policies(args, tried.config)
    start_seconds = tried.start_seconds
    if args.start_seconds is not None:
        start_seconds = seconds(args.start_seconds, "--start-seconds")
    slots = next(iter(policies.values())).agents_per_worker
    ideal = ideal_of(tried.load.everyone(), slots, start_seconds)
    counted = _counted_from(policies, tried, ideal)
    outcomes = {
        name: _simulate(name, config, tried.load, start_seconds, ideal, counted)
        for name, config in policies.items()
    }
    show(args, outcomes, ideal, tried.recorded, counted)
    return 0


def _counted_from(policies: Mapping[str, PoolConfig], tried: _Tried, ideal: Ideal) -> float:
    """When the figures begin: a forecast must first learn, if there is enough to go on."""
    forecasts = any(config.scale_policy.forecast != "off" for config in policies.values())
    at = ideal.since + FIRST_DAYS * 86_400
    return at if forecasts and tried.recorded is None and at < ideal.until else -inf


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


def _policies(args: argparse.Namespace, pool: PoolConfig) -> dict[str, PoolConfig]:
    """By name. Raises `BadInput`."""
    own = {"agents_per_worker": args.agents_per_worker} if args.agents_per_worker else {}
    policies: dict[str, PoolConfig] = {}
    for path in args.policies:
        if path.stem in policies:
            raise BadInput(f"--policy: two are named {path.stem}")
        policies[path.stem] = _policy(path, pool, own)
    sizes = sorted({config.agents_per_worker for config in policies.values()})
    if len(sizes) > 1:
        found = " and ".join(map(str, sizes))
        raise BadInput(f"workers of {found} slots cannot be compared: use --agents-per-worker")
    return policies


def _of_pool(args: argparse.Namespace) -> _Tried:
    """Raises `BadInput`, `Refused`, and `ServiceUnreachable`."""
    found = recorded(args)
    load, outcome = found.recording.load, found.recording.outcome
    if not outcome.arrivals and not load.present:
        raise Refused(f"pool {args.pool}: no agent was there then")
    start_seconds = found.recording.start_seconds
    known = START_SECONDS if start_seconds is None else start_seconds
    return _Tried(load, known, found.config, outcome)


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


def _policy(path: Path, pool: PoolConfig, own: Mapping[str, Any]) -> PoolConfig:
    try:
        return policy_of({**read_policy(path), **own}, pool)
    except msgspec.ValidationError as error:
        what, _, key = in_words(error).partition(" - at `$.")
        raise BadInput(f"{path}: {f'{key[:-1]}: ' if key else ''}{what}") from None


def _simulate(
    name: str, config: PoolConfig, load: Load, start_seconds: float, ideal: Ideal, counted: float
) -> Outcome:
    arguments = (config.scale_policy, start_seconds, ideal.since, ideal.until, counted)
    pool = SimulatedPool(*arguments)
    if config.consolidate == AUTO:
        pool = ConsolidatingPool(config.move_policy, *arguments)
    return pool.run(load, Progress(name, "arrivals"))
