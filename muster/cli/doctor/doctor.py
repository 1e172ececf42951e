"""check Redis, database and host, and say what to change

Checks Redis, the database, the logs and this host: the configured ones, those that a `muster up`
uses here, or would use. Changes nothing. Exit code 1 if anything fails.

  muster doctor                                        what `muster up` uses here
  muster doctor --redis-url redis://redis.internal     another Redis
  muster doctor --json | jq '.[] | select(.level != "OK")'
"""

import argparse
import asyncio
import os
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from eventstore.embedded.directory import find_binary
from eventstore.errors import ConfigurationError, ServerBinaryMissing
from muster.cli.arguments import targets
from muster.cli.arguments.command import Subparsers, declare
from muster.cli.arguments.output import is_json, print_document
from muster.cli.doctor.checks import Check, Level, check
from muster.cli.doctor.database_checks import check_database
from muster.cli.doctor.host_checks import check_host
from muster.cli.doctor.log_checks import check_logs
from muster.cli.doctor.redis_checks import check_redis
from muster.settings.environment import unknown_variables
from muster.settings.loading import load
from muster.settings.settings import LOOPBACK, Settings
from muster.terminal import render
from workers.host.capacity import HostLimits

NEEDED = ("address", "reachable", "readable")
"""Checks that must pass before the logs can be checked."""
STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "doctor", run, __doc__)
    parser.add_argument("--config", metavar="FILE", help="of `muster up` (default ./muster.toml)")
    targets.add_flags(parser, targets.LOG_FLAGS)


def run(args: argparse.Namespace) -> int:
    settings, refused = _settings(args)
    named = bool(args.data_dir)
    args.data_dir = args.data_dir or str(settings.data_dir)
    redis, database = _addresses(args, settings, named=named)
    checks = asyncio.run(check_redis(redis)) if redis else [_embedded()]
    checks += check_database(database)
    if redis and not any(check.level is Level.FAIL for check in checks if check.name in NEEDED):
        prefix = targets.key_prefix(args) or settings.key_prefix
        roles = None if refused else tuple(settings.roles)
        checks += asyncio.run(check_logs(redis, prefix, database, roles))
    limits = HostLimits(
        settings.host_workers_max,
        settings.host_launches_max,
        settings.host_memory_min_mb,
        settings.host_load_max,
    )
    parts = urlsplit(redis)
    local = parts.scheme == "unix" or parts.hostname in (None, *LOOPBACK)
    checks += [*check_host(limits, redis_is_local=local), *refused, *_warnings(args)]
    _print_checks(checks, args)
    return int(any(check.level is Level.FAIL for check in checks))


def _settings(args: argparse.Namespace) -> tuple[Settings, list[Check]]:
    """The settings of a `muster up` here, and a failed check if they are invalid."""
    try:
        return load({"data_dir": args.data_dir, "config": args.config}, os.environ), []
    except ConfigurationError as error:
        settings = Settings(data_dir=targets.data_directory(args))
        return settings, [Check("muster up", "settings", Level.FAIL, str(error), "correct it")]


def _warnings(args: argparse.Namespace) -> Iterator[Check]:
    """What is wrong although `muster up` starts."""
    if fallback := targets.running(args).fallback:
        change = "once that Redis answers, restart `muster up`: it hands the fallback over"
        yield Check("muster up", "log", Level.WARN, fallback, change)
    for text in unknown_variables(os.environ):
        yield Check("muster up", "environment", Level.WARN, text, "correct it, or remove it")


def _addresses(args: argparse.Namespace, settings: Settings, *, named: bool) -> tuple[str, str]:
    """The Redis (empty: the embedded one) and the database to check.

    `named`: a flag named the data directory, so what runs there comes first.
    """
    running = targets.running(args)
    if settings.embedded:  # whatever the environment says
        redis = args.redis_url or running.redis_url
        return redis, args.database_url or running.database_url or settings.views_url
    redis, database = (
        targets.find_address(args, name, only_folder=named)
        for name in ("redis_url", "database_url")
    )
    return redis or settings.redis_url, database or settings.views_url


def _embedded() -> Check:
    """Where no Redis is configured, `muster up` runs an embedded one."""
    try:
        found = f"none is configured: `muster up` runs its own, {find_binary()}"
        return check("redis", "address", found)
    except ServerBinaryMissing as error:
        return Check("redis", "address", Level.FAIL, "none is configured", str(error))


def _print_checks(checks: Sequence[Check], args: argparse.Namespace) -> None:
    if is_json(args):
        print_document(args, checks)
        return
    columns = tuple(render.Column(name) for name in ("STATE", "WHERE", "WHAT", "FOUND"))
    rows = [
        (render.Cell(check.level, STYLES[check.level]), check.area, check.name, check.found)
        for check in checks
    ]
    advice = [f"       -> {check.change}" if check.change else "" for check in checks]
    render.show(render.Table(columns, rows), advice, fit=False)
