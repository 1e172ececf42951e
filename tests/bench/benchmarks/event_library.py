"""Appending and folding events, compared with the library `eventsourcing` on SQLite.

Both append one step at a time and record it before the next one of that subject. Muster's steps go
through its scripts into Redis, a hundred subjects at once; the library's into a file, one after the
other, as its applications do. Folding is a rebuild of all views, and of all aggregates.
"""

import os
import time
from functools import partial

from tests.bench.asked import Asked, asked
from tests.bench.benchmarks.replay import compared, rebuilt
from tests.bench.environments import Environment
from tests.bench.figures import Report
from tests.bench.history import History, history, sqlite_url
from tests.bench.peers import SCRIPTS
from tests.bench.setup import Setup, interleaved
from tests.turnover import EVENTS_OF_A_LIFE, turn_over


async def run(setup: Setup) -> Report:
    events, appended = setup.scaled(40_000, 10_000), setup.scaled(10_000, 3_000)
    environment = Environment(setup.cache, "eventsourcing", ("eventsourcing",))
    environment.make()
    command = (environment.bin / "python", SCRIPTS / "eventsourcing_log.py")
    env = {**os.environ, "BENCH_FOLDER": str(setup.new_folder("event-library"))}
    async with (
        history(setup, events, sqlite_url(setup.new_folder("views"))) as log,
        history(setup, 1_000, sqlite_url(setup.new_folder("other"))) as other,
        asked(*command, env=env) as library,
    ):
        appends = await interleaved(
            setup.rounds,
            {
                "muster": partial(append, other, appended),
                "library": partial(ask_float, library, f"append {appended}"),
            },
        )
        await library.ask(f"append {events}")
        replays = await interleaved(
            setup.rounds,
            {"muster": partial(rebuilt, log), "library": partial(ask_float, library, "replay")},
        )
    peer = environment.versions()
    return Report(
        name="event-library",
        figures=(
            compared("append", appends["muster"], peer, appends["library"]),
            compared("fold all", replays["muster"], peer, replays["library"]),
        ),
        notes=(f"{appended:,} events appended a round, {log.events:,} folded",),
    )


async def append(log: History, events: int) -> float:
    """Events per second."""
    began = time.perf_counter()
    await turn_over(log.stage.log, log.pool, events // EVENTS_OF_A_LIFE)
    return events / (time.perf_counter() - began)


async def ask_float(library: Asked, line: str) -> float:
    return float(await library.ask(line))
