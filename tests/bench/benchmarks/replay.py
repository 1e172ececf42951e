"""Rebuilding the views, events per second.

SQLite: compared with a bare loop over the same stream that reads, decodes, keeps the last state and
inserts two tables; once from the archive, as `muster replay` does, and once from the streams alone,
as with `--from-scratch`, which writes the archive too. PostgreSQL: with COPY of the same rows.
"""

import time
from functools import partial

from projector.rebuild.rebuild import RebuildOptions, replay
from projector.service.from_scratch import from_scratch
from tests.bench.bare_replay import CopiedRows, bare_loop
from tests.bench.figures import Figure, Report
from tests.bench.history import History, history, postgres, sqlite_url
from tests.bench.setup import Setup, interleaved
from tests.integration.projector.stage import EVENTS


async def run(setup: Setup) -> Report:
    events = setup.scaled(50_000, 20_000)
    async with history(setup, events, sqlite_url(setup.new_folder("views"))) as log:
        found = await interleaved(
            setup.rounds,
            {
                "replay": partial(rebuilt, log),
                "scratch": partial(built_from_streams, setup, log),
                "bare": partial(bare, setup, log),
            },
        )
        sqlite_events = log.events
    async with postgres(setup) as url, history(setup, events // 2, url) as log:
        rows = CopiedRows(url)
        stored = await interleaved(
            setup.rounds, {"replay": partial(rebuilt, log), "copy": partial(copied, rows, log)}
        )
        postgres_events = log.events
    loop = "XRANGE, decode, keep the last state, insert both tables"
    return Report(
        name="replay",
        figures=(
            compared("replay, SQLite", found["replay"], loop, found["bare"], 1.2, 4.0),
            compared("from the streams alone, SQLite", found["scratch"], loop, found["bare"]),
            compared(
                "replay, PostgreSQL",
                stored["replay"],
                "COPY of the same rows",
                stored["copy"],
                0.5,
                0.7,
            ),
        ),
        notes=(f"{sqlite_events:,} events in SQLite, {postgres_events:,} in PostgreSQL",),
    )


def compared(
    name: str,
    ours: list[float],
    compared_with: str,
    baseline: list[float],
    target: float | None = None,
    aim: float | None = None,
) -> Figure:
    return Figure(
        name=name,
        unit="events/s",
        ours=tuple(ours),
        compared_with=compared_with,
        baseline=tuple(baseline),
        target=target,
        aim=aim,
    )


async def rebuilt(log: History) -> float:
    """The views, from the archive; none may differ."""
    began = time.perf_counter()
    options = RebuildOptions(redis_url=log.redis_url, database_url=log.database_url)
    done = await replay(options, lambda _: None)
    seconds = time.perf_counter() - began
    assert done.events >= log.events
    assert not done.comparison.differences, done.comparison
    return done.events / seconds


async def built_from_streams(setup: Setup, log: History) -> float:
    """Views and archive in a new file."""
    began = time.perf_counter()
    url = sqlite_url(setup.new_folder("scratch"))
    done, _ = await from_scratch(
        RebuildOptions(redis_url=log.redis_url, database_url=url), lambda _: None
    )
    assert done.events >= log.events
    return done.events / (time.perf_counter() - began)


async def bare(setup: Setup, log: History) -> float:
    return bare_loop(log.redis_url, EVENTS, setup.new_folder("bare") / "bare.db")


async def copied(rows: CopiedRows, log: History) -> float:
    return rows.copy(log.events)
