"""`muster replay`: all views from the log again, while the old ones serve."""

import argparse
import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from muster import render
from muster.commands import connecting
from muster.commands.command import Subparsers, database_answers, declare

if TYPE_CHECKING:
    from projector.rebuild import Progress

EXAMPLES = """\
  muster replay                                   the views of the `muster up` that runs here
  MUSTER_REDIS_URL=redis://redis.internal DATABASE_URL=postgresql://db/muster muster replay
"""
LINE_SECONDS = 2.0
"""How often a line is written where there is no terminal to draw a bar on."""
Tell: TypeAlias = "Callable[[Progress], None]"


def add(subparsers: Subparsers) -> None:
    parser = declare(
        subparsers,
        "replay",
        run,
        summary="rebuild all views from the log",
        description="Rebuilds all views from archive and streams, beside those that serve, and"
        " puts them in their place at once. May run at any time.",
        examples=EXAMPLES,
    )
    connecting.add_redis_flags(parser)
    connecting.add_key_prefix_flag(parser)
    connecting.add_database_flags(parser)
    connecting.add_json_flag(parser)


def run(args: argparse.Namespace) -> int:
    from projector.rebuild import RebuildOptions, replay

    options = RebuildOptions(
        redis_url=connecting.redis_url(args),
        key_prefix=connecting.key_prefix(args),
        database_url=connecting.database_url(args),
    )
    with database_answers(options.database_url), _telling() as tell:
        done = asyncio.run(replay(options, tell))
    if args.json:
        render.print_json(
            {"events": done.events, "seconds": round(done.seconds, 3), "rate": round(done.rate)}
        )
    else:
        took = f"{done.seconds:.1f} s, {done.rate:,.0f} a second"
        print(f"the views are rebuilt: {done.events:,} events in {took}")
    return 0


@contextmanager
def _telling() -> Iterator[Tell]:
    """Where progress goes: a bar at a terminal, else a line now and then; on standard error."""
    screen = render.console(stderr=True)
    if not screen.is_terminal:
        yield lines()
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


def lines() -> Tell:
    """Progress as lines of text, not more than one every few seconds."""
    last = time.monotonic()
    screen = render.console(stderr=True)

    def tell(at: "Progress") -> None:
        nonlocal last
        if time.monotonic() - last < LINE_SECONDS and not at.finished:
            return
        last = time.monotonic()
        left = "" if at.seconds_left is None else f", {render.duration(at.seconds_left)} left"
        text = f"{at.events} of {at.total} events, {at.rate:.0f}/s{left}"
        screen.print(text, soft_wrap=True)

    return tell
