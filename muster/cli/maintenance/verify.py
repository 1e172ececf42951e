"""compare views and Redis' state with the log

Folds the log again and compares the result, at one position, with the views and Redis' hashes and
sets, while the system runs. Exit code 1 if anything differs.

  muster verify                  the `muster up` that runs here
  muster verify --json           for a program; exit code 1 if anything differs
  MUSTER_REDIS_URL=redis://redis.internal DATABASE_URL=postgresql://db/muster muster verify
"""

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from muster.cli.arguments import targets
from muster.cli.arguments.command import Subparsers, database_errors, declare
from muster.cli.arguments.output import is_json, print_document
from muster.cli.events.lines import CATALOGUE
from muster.terminal import render

if TYPE_CHECKING:
    from projector.verify.report import Report


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "verify", run, __doc__)
    targets.add_flags(parser, targets.LOG_FLAGS)
    export = "an export that has what was pruned from the archive"
    parser.add_argument("--export", metavar="FOLDER", type=Path, help=export)


def run(args: argparse.Namespace) -> int:
    from projector.exports.reading import archive_with
    from projector.verify.verification import verify

    redis, database = targets.redis_url(args), targets.database_url(args)
    with database_errors(database):
        report = asyncio.run(
            verify(redis, targets.key_prefix(args), database, archive_with(args.export))
        )
    _print_report(report, args)
    return 0 if report.equal else 1


def _print_report(report: "Report", args: argparse.Namespace) -> None:
    if is_json(args):
        print_document(args, {"equal": report.equal, **asdict(report)})
        return
    names = ("WHERE", "POOL", "SUBJECT", "FIELD", "EXPECTED", "FOUND")
    rows = [
        (one.where, one.pool or CATALOGUE, one.subject, one.field, one.expected, one.found)
        for one in report.differences
    ]
    if rows:
        render.show(render.Table(tuple(map(render.Column, names)), rows))
    count, found = render.count, len(rows) + report.omitted
    pools = count(sum(bool(checked.pool) for checked in report.pools), "pool")
    verdict = "equal" if report.equal else count(found, "difference")
    print(f"{verdict}: {count(report.events, 'event')} of {pools} folded,"
          f" {count(report.subjects, 'subject')} compared")  # fmt: skip
