"""Why an agent, a worker or a pool is as it is, over ten million archived events.

On SQLite and on PostgreSQL: the last twenty events, and the last thousand, each time on a new
connection. The pool and one agent have a million events each.
"""

import time
from collections.abc import Awaitable, Callable

from msgspec.structs import replace
from sqlalchemy import create_engine, text

from projector.queries.views import (
    HISTORY_SECONDS,
    AgentRow,
    Explanation,
    History,
    WorkerRow,
    explain_agent,
    explain_pool,
    explain_worker,
)
from projector.store.database import Database
from tests.bench.archive import LOOPING, POOL, agent_id, archive, worker_id
from tests.bench.figures import Figure, Report
from tests.bench.history import postgres, sqlite_url
from tests.bench.setup import Setup

TARGET_MS, AIM_MS = 1_000.0, 100.0
LIMITS = (20, 1_000)
AGENT = AgentRow(
    agent_id="", pool_name=POOL, role_type="developer", project_id="demo", status="running",
    reason="", incarnation=1, version=1, process_id="", epoch=1, stop="", heartbeat_interval=30.0,
    max_idle_time=None, labels={}, last_error=None, failures=0, losses=0, alone=False, created_at=1,
    started_at=1, ended_at=None, changed_at=1, fencing_token="",
)  # fmt: skip
WORKER = WorkerRow(
    worker_id="", pool_name=POOL, host="h1", pid=1, status="active", reason="", epoch=1, version=1,
    agent_count=0, max_agents=10, alone="", requested_at=1, started_at=1, ended_at=None,
)  # fmt: skip
Ask = Callable[[History, int], Awaitable[Explanation]]


async def run(setup: Setup) -> Report:
    count = setup.scaled(10_000_000, 500_000)
    figures, note = await measure(setup, "SQLite", sqlite_url(setup.new_folder("views")), count)
    async with postgres(setup) as url:
        more, other_note = await measure(setup, "PostgreSQL", url, count)
    notes = (f"{count:,} archived events", note, other_note)
    return Report(name="explain", figures=(*figures, *more), notes=notes)


async def measure(setup: Setup, name: str, url: str, count: int) -> tuple[list[Figure], str]:
    """Milliseconds of each question, and how long it took to archive the events."""
    began = time.perf_counter()
    database = Database(url)
    database.open()
    await database.prepare()
    await archive(database, count)
    await database.close()
    if not database.sqlite:  # what its autovacuum does by and by
        engine = create_engine(database.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("VACUUM ANALYZE muster.events"))
        engine.dispose()
    note = f"archived on {name} in {time.perf_counter() - began:.0f} s"
    figures = [
        Figure(
            name=f"{subject}, last {limit:,} events, {name}",
            unit="ms",
            ours=tuple([await milliseconds(url, ask, limit) for _ in range(setup.rounds)]),
            better="less",
            target=TARGET_MS,
            aim=AIM_MS,
        )
        for subject, ask in questions(count).items()
        for limit in LIMITS
    ]
    return figures, note


def questions(count: int) -> dict[str, Ask]:
    """About subjects from the middle of the archive, and about those that have a tenth of it."""
    one = replace(AGENT, agent_id=agent_id(count // 20))
    looping = replace(AGENT, agent_id=LOOPING, version=count // 10)
    worker = replace(WORKER, worker_id=worker_id(count // 20))
    return {
        "an agent": lambda history, limit: explain_agent(history, one, 1, limit=limit),
        "an agent that crashes": lambda history, limit: explain_agent(
            history, looping, 1, limit=limit
        ),
        "a worker": lambda history, limit: explain_worker(history, worker, 1, limit=limit),
        "the pool": lambda history, limit: explain_pool(history, POOL, None, limit=limit),
    }


async def milliseconds(url: str, ask: Ask, limit: int) -> float:
    history = History(url, seconds=HISTORY_SECONDS)
    history.database.open()
    try:
        began = time.perf_counter()
        found = await ask(history, limit)
        taken = (time.perf_counter() - began) * 1000
    finally:
        await history.database.close()
    assert found.lines, found
    return taken
