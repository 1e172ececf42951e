"""Lists, a pool and the dashboard with a million ended agents, and with a thousand.

One system has the rows of so many ended agents and their events put into its views, copies of those
of a real one. Both have the same fifty agents that run.
"""

import sqlite3
import statistics
import time
from contextlib import AsyncExitStack, closing
from functools import partial

from tests.bench.figures import Figure, Report
from tests.bench.muster_system import MeasuredSystem, muster
from tests.bench.setup import Setup, interleaved

LIVE = 50
APART_MS = 60
"""A million of them have ended within 17 hours."""
SAMPLES = 10
POOLS: dict[str, dict[str, object]] = {
    "returns": {"min_workers": 1, "max_workers": 1},
    "stays": {"min_workers": 5, "max_workers": 5, "max_idle_time": '"never"'},
}
PAGES = {
    "the newest agents": "/api/v1/agents?limit=100",
    "agents that run": "/api/v1/agents?status=running&limit=100",
    "ended agents of a pool": "/api/v1/agents?pool_name=returns&status=terminated&limit=100",
    "agents of a project": "/api/v1/agents/project/bench",
    "a pool": "/api/v1/agents/pools/returns",
    "all pools": "/api/v1/agents/pools",
    "figures of the system": "/api/v1/agents/monitor/system",
    "the dashboard": "/api/v1/agents/monitor/dashboard",
}
NEW_ID = "'00000000-0000-7000-8000-' || printf('%012d', n)"
EARLIER = {
    name: f"one.{name} - n * {APART_MS}"
    for name in ("created_at", "started_at", "ended_at", "changed_at")
}
NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"


async def run(setup: Setup) -> Report:
    many, few = setup.scaled(1_000_000, 100_000), 1_000
    async with AsyncExitStack() as stack:
        systems = []
        for count in (many, few):
            system = await stack.enter_async_context(muster(setup.new_folder("muster"), POOLS))
            await system.fill("stays", LIVE)
            await system.spawned("returns", 1)
            put_ended(system, count)
            systems.append(system)
        figures = []
        for name, path in PAGES.items():
            for system in systems:
                await milliseconds(system, path)
            found = await interleaved(
                setup.rounds,
                {str(n): partial(milliseconds, s, path) for n, s in enumerate(systems)},
            )
            figures.append(
                Figure(
                    name=f"{name}, {many:,} ended",
                    unit="ms",
                    ours=tuple(found["0"]),
                    compared_with=f"{few:,} ended",
                    baseline=tuple(found["1"]),
                    better="less",
                    target=2.0,
                    aim=1.0,
                )
            )
    return Report(
        name="ended",
        figures=tuple(figures),
        notes=(f"{LIVE} agents run; medians of {SAMPLES} requests one after the other",),
    )


async def milliseconds(system: MeasuredSystem, path: str) -> float:
    """The median; the first request prepares what is shared between those that follow."""
    taken = []
    for _ in range(SAMPLES):
        began = time.perf_counter()
        status, body = await system.call("GET", path)
        taken.append((time.perf_counter() - began) * 1000)
        assert status == 200, body
    return statistics.median(taken)


def put_ended(system: MeasuredSystem, count: int) -> None:
    """Copies of the one ended agent, and of its events under a log that is no more."""
    with closing(sqlite3.connect(system.views(), timeout=60)) as views:
        agents = columns(views, "agents", {"agent_id": NEW_ID, **EARLIER})
        ended = "one.status = 'terminated'"
        views.execute(
            f"{NUMBERS} INSERT INTO agents SELECT {agents} FROM numbers, agents AS one"
            f" WHERE {ended} AND one.agent_id NOT LIKE '00000000%'",
            (count,),
        )
        changed = {
            "pool": "'gone'", "generation": "1", "subject": NEW_ID, "seq": "n * 10 + one.seq % 10",
            "ts": f"one.ts - n * {APART_MS}", "event_id": "printf('%d-%d', n, one.seq)",
        }  # fmt: skip
        events = columns(views, "events", changed)
        views.execute(
            f"{NUMBERS} INSERT INTO events SELECT {events} FROM numbers, (SELECT * FROM events"
            f" WHERE subject = (SELECT agent_id FROM agents one WHERE {ended} AND"
            " one.agent_id NOT LIKE '00000000%')) AS one",
            (count,),
        )
        views.commit()
        views.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def columns(views: sqlite3.Connection, table: str, changed: dict[str, str]) -> str:
    """All columns of a table, some of them computed."""
    names = [row[1] for row in views.execute(f"PRAGMA table_info({table})")]
    return ", ".join(changed.get(name, f'one."{name}"') for name in names)
