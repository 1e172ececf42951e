"""export, check, import or prune the archive of events

Exports the archive to a folder, or what was added to it since the last export there; checks the
files of an export; puts exported events back into an archive that is empty, was pruned, or starts
late; or removes from the archive what an export has. The system may run meanwhile.

  muster archive export /backup/muster     the archive of the `muster up` that runs here
  muster archive check /backup/muster      whether all files are as they were written
  DATABASE_URL=postgresql://db/muster muster archive import /backup/muster
  muster archive prune /backup/muster --before 365d     what is older stays in the export only
"""

import argparse
import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from muster.cli.arguments import targets
from muster.cli.arguments.command import BadInput, Subparsers, database_errors, declare, print_note
from muster.cli.arguments.output import is_json, print_document
from muster.cli.arguments.values import time_ms
from muster.cli.events.lines import CATALOGUE
from muster.terminal import render

if TYPE_CHECKING:
    from projector.archive.access import OnProgress, Progress
    from projector.exports.manifest import Manifest
    from projector.store.database import Database

LINE_SECONDS = 2.0
"""How often a line is printed where there is no terminal."""
DATABASE_FLAGS: targets.Flags = {
    name: targets.LOG_FLAGS[name] for name in ("--data-dir", "--database-url")
}
FOLDER = "the folder of the export"

T = TypeVar("T")


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "archive", _help, __doc__)
    targets.add_flags(parser, DATABASE_FLAGS)
    actions = parser.add_subparsers(metavar="ACTION", title="actions")
    for name, run, summary in (
        ("export", _export, "export what a folder does not have of the archive"),
        ("check", _check, "check the files of an export"),
        ("import", _import, "put exported events back into the archive"),
        ("prune", _prune, "remove what is exported from the archive"),
    ):
        example = f"muster archive {name} /backup/muster"
        action = targets.declare_action(actions, name, run, summary, example, _add_flags)
        action.add_argument("folder", metavar="FOLDER", type=Path, help=FOLDER)
    what = "events before it, such as 90d or 2026-01-31"
    action.add_argument("--before", metavar="TIME", required=True, help=what)


def _add_flags(parser: argparse.ArgumentParser, default: object) -> None:
    targets.add_flags(parser, DATABASE_FLAGS, default)


def _help(args: argparse.Namespace) -> int:
    args.parser.print_help()
    return BadInput.exit_code


def _export(args: argparse.Namespace) -> int:
    from projector.archive.export import export_archive

    url = targets.database_url(args)
    report = _reporter()
    done = _run(url, lambda database: export_archive(database, args.folder, report))
    if is_json(args):
        document = {"events": done.events, "files": done.files, **_ranges(done.manifest)}
        print_document(args, document)
        return 0
    added = f"{render.count(done.events, 'event')} in {render.count(done.files, 'file')}"
    print(f"exported to {args.folder}: {added}, {done.seconds:.1f} s")
    _show(done.manifest)
    return 0


def _check(args: argparse.Namespace) -> int:
    from projector.archive.importing import check_files
    from projector.exports.manifest import read_manifest

    manifest = read_manifest(args.folder)
    asyncio.run(check_files(args.folder, manifest.files, _reporter()))
    if is_json(args):
        print_document(args, {"intact": True, **_ranges(manifest)})
        return 0
    files, events = len(manifest.files), manifest.events
    print(f"intact: {render.count(events, 'event')} in {render.count(files, 'file')}")
    _show(manifest)
    return 0


def _import(args: argparse.Namespace) -> int:
    from projector.archive.importing import import_archive

    url = targets.database_url(args, may_be_missing=True)
    report = _reporter()
    done = _run(url, lambda database: import_archive(database, args.folder, report))
    if is_json(args):
        print_document(args, {"events": done.events, "pools": done.pools})
        return 0
    pools = ", ".join(pool or CATALOGUE for pool in done.pools)
    missing = f" of {pools}" if pools else ": the archive has all of them"
    print(f"imported {render.count(done.events, 'event')}{missing}")
    if done.events:
        print_note("`muster replay` puts what has ended back into the views, unless it was pruned")
    return 0


def _prune(args: argparse.Namespace) -> int:
    from projector.archive.pruning import prune

    url, now = targets.database_url(args), time.time()
    before, report = time_ms(args.before, "--before", now), _reporter()
    work = functools.partial(prune, folder=args.folder, before_ms=before, on_progress=report)
    done = _run(url, lambda database: work(database, now_ms=int(now * 1000)))
    if is_json(args):
        print_document(args, {"pools": done})
        return 0
    columns = ("POOL", "PRUNED UP TO SEQ", "REMOVED NOW", "WHAT KEEPS MORE")
    rows = [(one.pool, str(one.seq or "-"), f"{one.events:,}", one.why or "-") for one in done]
    render.show(render.Table(tuple(map(render.Column, columns)), rows))
    return 0


def _run(url: str, work: "Callable[[Database], Awaitable[T]]") -> T:
    from projector.archive.access import opened_archive

    async def run() -> T:
        async with opened_archive(url) as database:
            return await work(database)

    with database_errors(url):
        return asyncio.run(run())


def _ranges(manifest: "Manifest") -> dict[str, object]:
    from projector.exports.manifest import ranges

    return {"ranges": list(ranges(manifest))}


def _show(manifest: "Manifest") -> None:
    """What is exported, as a table."""
    from projector.exports.manifest import ranges

    columns = ("POOL", "GENERATION", "FIRST SEQ", "LAST SEQ")
    rows = [
        (one.pool or CATALOGUE, str(one.generation), str(one.first_seq), str(one.last_seq))
        for one in ranges(manifest)
    ]
    render.show(render.Table(tuple(map(render.Column, columns)), rows))


def _reporter() -> "OnProgress":
    """Progress as lines on standard error: one for each kind of work, then every few seconds."""
    screen = render.console(stderr=True)
    doing, started, printed = "", 0.0, 0.0

    def report(progress: "Progress") -> None:
        nonlocal doing, started, printed
        now = time.monotonic()
        if progress.doing != doing:
            doing, started = progress.doing, now
        elif now - printed < LINE_SECONDS and progress.events < progress.total:
            return
        printed = now
        rate = progress.events / (now - started) if now > started else 0
        speed = f", {rate:,.0f} a second" if rate else ""
        name = progress.pool or CATALOGUE
        text = f"{doing} {name}: {progress.events:,} of {progress.total:,} events{speed}"
        screen.print(text, soft_wrap=True)

    return report
