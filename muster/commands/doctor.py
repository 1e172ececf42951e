"""`muster doctor`: is everything fit for Muster, and what is to be changed where it is not?"""

import argparse
import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

from muster import render
from muster.commands import connecting
from muster.commands.checks import Check, Level
from muster.commands.command import Subparsers, declare
from muster.commands.database_checks import check_database
from muster.commands.host_checks import check_host
from muster.commands.redis_checks import check_redis

EXAMPLES = """\
  muster doctor                                        what `muster up` uses here
  muster doctor --redis-url redis://redis.internal     another Redis
  muster doctor --json | jq '.[] | select(.level != "OK")'
"""
STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def add(subparsers: Subparsers) -> None:
    parser = declare(
        subparsers,
        "doctor",
        run,
        summary="check Redis, database and host, and say what to change",
        description="Checks Redis, the database and this host. Changes nothing. Exit code 1 if"
        " anything fails.",
        examples=EXAMPLES,
    )
    connecting.add_redis_flags(parser)
    connecting.add_database_flags(parser)
    connecting.add_json_flag(parser)


def run(args: argparse.Namespace) -> int:
    redis, database = connecting.find_redis_url(args), connecting.find_database_url(args)
    checks = asyncio.run(check_redis(redis)) if redis else [_not_named("redis", "--redis-url")]
    if database:
        checks += check_database(database)
    else:
        checks.append(_not_named("database", "--database-url"))
    checks += [*check_host(redis_here=is_here(redis)), *_fallback(connecting.running(args))]
    _tell(checks, as_json=args.json)
    return int(any(check.level is Level.FAIL for check in checks))


def _fallback(running: connecting.Running) -> list[Check]:
    """Whether the `muster up` of this data directory runs on a log that stands in for another."""
    if not running.fallback:
        return []
    change = "once that Redis answers, restart `muster up`: it changes over"
    return [Check("muster up", "log", Level.WARN, running.fallback, change)]


def is_here(redis_url: str) -> bool:
    """Whether that Redis runs on this host, as far as its address tells."""
    parts = urlsplit(redis_url)
    return parts.scheme == "unix" or parts.hostname in (None, "localhost", "127.0.0.1", "::1")


def _not_named(area: str, flag: str) -> Check:
    change = f"nothing to check: give {flag}, or name the data directory of a running `muster up`"
    return Check(area, "address", Level.WARN, "not named", change)


def _tell(checks: Sequence[Check], *, as_json: bool) -> None:
    if as_json:
        render.print_json(checks)
        return
    columns = tuple(render.Column(name) for name in ("STATE", "WHERE", "WHAT", "FOUND"))
    rows = [
        (render.Cell(check.level, STYLES[check.level]), check.area, check.name, check.found)
        for check in checks
    ]
    advice = [f"       -> {check.change}" if check.change else "" for check in checks]
    render.show(render.Table(columns, rows), advice)
