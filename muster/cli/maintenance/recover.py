"""rebuild logs that Redis lost, from the archive

Finds logs that are gone, rolled back or halted; keeps them closed until every worker's lease has
lapsed, rebuilds them from the archive under the next generation, and opens them. Lists what could
not be saved. Intact logs are not touched.

  muster recover --dry-run       list damaged logs; changes nothing
  muster recover                 recover it, on the `muster up` that runs here
  MUSTER_REDIS_URL=redis://redis.internal DATABASE_URL=postgresql://db/muster muster recover
"""

import argparse
import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from muster.cli.arguments import targets
from muster.cli.arguments.command import Refused, Subparsers, database_errors, declare, print_note
from muster.cli.arguments.output import is_json, print_document
from muster.cli.events.lines import CATALOGUE
from muster.process import log_output
from muster.terminal import render

if TYPE_CHECKING:
    from projector.recovery.recovery import Stage
    from projector.recovery.rewrite import RecoveredLog

RAN = "ran"
"""Shown for an agent that a worker ran and that is in no log."""


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "recover", run, __doc__)
    what = "only list damaged logs; exit code 1 if there are any"
    parser.add_argument("--dry-run", action="store_true", help=what)
    targets.add_flags(parser, targets.LOG_FLAGS)


def run(args: argparse.Namespace) -> int:
    from projector.recovery.recovery import RecoveryOptions, examine, recover

    log_output.configure("recover", level="critical")  # the command prints all of it itself
    options = RecoveryOptions(
        redis_url=targets.redis_url(args),
        key_prefix=targets.key_prefix(args),
        database_url=targets.database_url(args),
        actor="muster recover",
    )
    with database_errors(options.database_url):
        if args.dry_run:
            damage = asyncio.run(examine(options))
            _require_archive(options.database_url, damage)
            return _print_damage(damage, args)
        try:
            done = asyncio.run(recover(options, _stage_reporter()))
        except KeyboardInterrupt:
            print_note("interrupted: damaged logs stay closed until `muster recover` is run again")
            raise
        _require_archive(options.database_url, done)
    _print_result(done, args)
    return 0


def _require_archive(database_url: str, found: Collection[object]) -> None:
    """Raises `Refused` where no damage was found because the archive is empty."""
    from projector.recovery.damage_scan import archive_exists

    if not found and not asyncio.run(archive_exists(database_url)):
        raise Refused(
            "nothing is archived in this database, so it is unknown whether a log is lost;"
            " is it the right one?"
        )


def _print_damage(damage: dict[str, str], args: argparse.Namespace) -> int:
    if is_json(args):
        found = [{"pool": pool, "reason": reason} for pool, reason in damage.items()]
        print_document(args, {"damaged": found})
    else:
        lines = [f"{pool or CATALOGUE}: {reason}" for pool, reason in damage.items()]
        print("\n".join(lines or ["every log is intact"]))
    return 1 if damage else 0


def _print_result(done: "Sequence[RecoveredLog]", args: argparse.Namespace) -> None:
    if is_json(args):
        print_document(args, {"logs": done})
        return
    if not done:
        print("every log is intact: there is nothing to recover")
    for one in done:
        agents, workers = render.count(one.agents, "agent"), render.count(one.workers, "worker")
        print(
            f"{one.pool or CATALOGUE}: recovered as generation {one.generation} after seq"
            f" {one.seq} ({one.reason}); {agents}, {one.restarted} of them will restart,"
            f" {workers} lost"
        )
    if any(one.unsaved for one in done):
        _print_lost(done)
    elif done:
        print("nothing is known to be lost")


def _print_lost(done: "Sequence[RecoveredLog]") -> None:
    """List the commands that were lost, by log."""
    from eventstore.recovery.loss_reports import AGENT_HELD

    columns = ("POOL", "WHAT", "SUBJECT", "GENERATION", "SEQ", "KNOWN FROM")
    rows = [
        (one.pool or of.pool or CATALOGUE, RAN if one.kind == AGENT_HELD else one.kind,
         one.agent_id, str(one.generation), str(one.seq), one.reporter)
        for of in done for one in of.unsaved
    ]  # fmt: skip
    print(f"{render.count(len(rows), 'thing')} could not be saved:")
    render.show(render.Table(tuple(map(render.Column, columns)), rows))
    if any(row[1] == RAN for row in rows):
        print(f"{RAN}: a worker ran this agent, and it is not in the recovered log")


def _stage_reporter() -> "Callable[[Stage], None]":
    """Reports progress to standard error: one line per stage, and one for the wait."""
    screen = render.console(stderr=True)
    reported = ("", "")

    def report(stage: "Stage") -> None:
        nonlocal reported
        if (stage.doing, stage.pool) != reported:
            reported = (stage.doing, stage.pool)
            where = f" ({stage.pool})" if stage.pool else ""
            wait = f": {render.duration(stage.seconds_left)}" if stage.seconds_left else ""
            screen.print(f"{stage.doing}{where}{wait}", soft_wrap=True)

    return report
