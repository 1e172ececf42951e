"""rebuild all views from the log

Rebuilds all views from archive and streams, while the old ones serve, compares the two, and
replaces the old ones in one step. May run at any time. With --from-scratch, a damaged SQLite file
is put aside first, and all is built from what Redis has; what was archived only is not.

  muster replay                                   the views of the `muster up` that runs here
  muster replay --from-scratch                    where their file is damaged
  MUSTER_REDIS_URL=redis://redis.internal DATABASE_URL=postgresql://db/muster muster replay
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from muster.cli.arguments import targets
from muster.cli.arguments.command import Subparsers, database_errors, declare, print_note
from muster.cli.arguments.output import is_json, print_document
from muster.process import log_output
from muster.terminal import render

if TYPE_CHECKING:
    from projector.rebuild.rebuild import Progress
    from projector.verify.view_comparison import Comparison

LINE_SECONDS = 2.0
"""How often a line is printed where there is no terminal for a progress bar."""
SHOWN_MAX = 5
"""The number of differences that are shown."""
ReportProgress: TypeAlias = "Callable[[Progress], None]"


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "replay", run, __doc__)
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="put the SQLite file of the views aside, and build another one from the streams",
    )
    targets.add_flags(parser, targets.LOG_FLAGS)
    export = "an export that has what was pruned from the archive"
    parser.add_argument("--export", metavar="FOLDER", type=Path, help=export)


def run(args: argparse.Namespace) -> int:
    from projector.exports.reading import archive_with
    from projector.rebuild.rebuild import RebuildOptions, replay
    from projector.service.from_scratch import from_scratch

    options = RebuildOptions(
        redis_url=targets.redis_url(args),
        key_prefix=targets.key_prefix(args),
        database_url=targets.database_url(args, may_be_missing=args.from_scratch),
    )
    aside = None
    with database_errors(options.database_url), _progress_reporter() as report:
        if args.from_scratch:
            log_output.configure("replay", level="error")  # a projector runs meanwhile
            done, aside = asyncio.run(from_scratch(options, report))
        else:
            done = asyncio.run(replay(options, report, archive_with(args.export)))
    if is_json(args):
        print_document(args, {**_document(done), **({"aside": str(aside)} if aside else {})})
        return 0
    took = f"{done.seconds:.1f} s, {done.rate:,.0f} a second"
    print(f"the views are rebuilt: {render.count(done.events, 'event')} in {took}")
    if aside is not None:
        print_note(f"the old file is {aside}; remove it once it is not needed")
    for line in comparison_lines(done.comparison):
        print_note(line)
    return 0


def _document(done: "Progress") -> dict[str, object]:
    found = done.comparison
    fields = ("pools", "left_out", "same_version", "rows", "differing", "differences")
    return {
        "events": done.events,
        "seconds": round(done.seconds, 3),
        "rate": round(done.rate),
        "compared": {name: getattr(found, name) for name in fields},
    }


def comparison_lines(found: "Comparison") -> Iterator[str]:
    """The result of the comparison, in lines."""
    for pool, why in found.left_out.items():
        yield f"not compared: {f'pool {pool}' if pool else 'pools and hosts'}: {why}"
    if not found.pools:
        return
    if not found.differing:
        yield f"{found.rows:,} rows are equal at the same position"
        return
    cause = "the views that served were wrong" if found.same_version else (
        f"the views that served were of version {found.version}"
    )  # fmt: skip
    yield f"{found.differing:,} of {found.rows:,} rows differ at the same position: {cause}"
    for difference in found.differences[:SHOWN_MAX]:
        yield f"  {difference}"


@contextmanager
def _progress_reporter() -> Iterator[ReportProgress]:
    """Reports progress to standard error: a bar at a terminal, else lines."""
    screen = render.console(stderr=True)
    if not screen.is_terminal:
        yield line_reporter()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("replaying"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} events  {task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("", total=0, rate=0.0)
        yield lambda at: bar.update(task, completed=at.events, total=at.total, rate=at.rate)


def line_reporter() -> ReportProgress:
    """Progress as lines of text, at most one every few seconds."""
    last = time.monotonic()
    screen = render.console(stderr=True)

    def report(progress: "Progress") -> None:
        nonlocal last
        if time.monotonic() - last < LINE_SECONDS and not progress.finished:
            return
        last = time.monotonic()
        seconds = progress.seconds_left
        left = "" if seconds is None else f", {render.duration(seconds)} left"
        text = f"{progress.events} of {progress.total} events, {progress.rate:.0f}/s{left}"
        screen.print(text, soft_wrap=True)

    return report
