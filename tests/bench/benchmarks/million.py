"""What lists, usage, history, alerts and explanations take with a million ended agents.

The processor time is that of the process that asks, which for SQLite is all of it; unlike the time
that passes, it does not depend on what else the machine does.

On SQLite and on PostgreSQL: what a gateway asks the database, of a year of that many agents in
views and archive, next to a year of a thousand. There are also twenty thousand closed alerts, or
twenty. What a request or a command takes besides does not grow (see `ended`).
"""

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import create_engine, text

from projector.queries.views import (
    AgentFilter,
    AsOf,
    Grouping,
    History,
    Period,
    Span,
    UsageFilter,
    Views,
    explain_agent,
    explain_pool,
    explain_worker,
    pool_history,
    usage,
)
from projector.rebuild.rebuild import RebuildOptions, replay
from projector.store.database import Database
from tests.bench import year
from tests.bench.benchmarks.explain import AGENT, WORKER
from tests.bench.figures import Figure, Report, percentile
from tests.bench.history import postgres, sqlite_url
from tests.bench.setup import Setup, interleaved
from tests.bench.year import DAY_MS, POOLS, YEAR_MS
from tests.servers import ValkeyServer

FEW, FEW_ALERTS, MANY_ALERTS = 1_000, 20, 20_000
SAMPLES = 5
QUERY_SECONDS = 60.0
"""On a machine with other work a query may take longer than a gateway lets it."""
LIMIT_MS = 1_000.0
"""Of a year of usage."""
POOL = POOLS[1]
Ask = Callable[[], Awaitable[object]]


class Taken(Struct, frozen=True):
    """By one question, in milliseconds."""

    ms: float
    cpu_ms: float


class Year(Struct, frozen=True):
    """A database with a year in it."""

    views: Views
    ended: int
    began_ms: int

    @property
    def questions(self) -> dict[str, Ask]:
        return {**self.lists(), **self.reasons(), **self.usages(), **self.histories()}

    def lists(self) -> dict[str, Ask]:
        """Subjects are from the middle of the year."""
        views, middle = self.views, self.middle
        agents = partial(views.agents, after="", limit=100)
        return {
            "the newest agents": partial(agents, AgentFilter(ended=False)),
            "a page from the middle": partial(views.agents, AgentFilter(), after=middle, limit=100),
            "ended agents of a pool": partial(agents, AgentFilter(pool_name=POOL, ended=True)),
            "agents of a project": partial(
                views.agents, AgentFilter(project_id="project-007"), limit=FEW // year.PROJECTS
            ),
            "agents with a label": partial(agents, AgentFilter(label=("team", "team-1"))),
            "one agent": partial(views.agent, middle, None),
            "how many agents there are": views.count_agents,
            "workers, ended ones too": partial(
                views.workers, None, ended=True, after="", limit=1000
            ),
            "all pools": views.pools,
            "what waits": views.waiting,
            "alerts, closed ones too": partial(views.closed_alerts, limit=100),
        }

    def reasons(self) -> dict[str, Ask]:
        """Of an agent, a worker and a pool, and what was archived of them."""
        views, history = self.views, self.views.history
        agent = replace(AGENT, agent_id=self.middle, pool_name=POOL, version=4)
        worker = replace(WORKER, worker_id=year.worker_of(self.began_ms, 1, 180), pool_name=POOL)
        stream_id = f"{self.middle_ms}-0"
        return {
            "why an agent is as it is": lambda: explain_agent(history, agent, 1, limit=20),
            "why a worker is as it is": lambda: explain_worker(history, worker, 1, limit=20),
            "why a pool is as it is": lambda: explain_pool(history, POOL, None, limit=20),
            "an agent, half a year ago": self._agent_then,
            "a thousand events, from half a year ago": partial(views.archived, POOL, stream_id),
        }

    async def _agent_then(self) -> object:
        history = self.views.history
        point = await history.point_in_time(AsOf(at_ms=self.middle_ms + 30_000))
        return await history.agent(point, self.middle, POOL)

    def usages(self) -> dict[str, Ask]:
        """Of a whole year."""
        span = Span(self.began_ms // DAY_MS * DAY_MS, (self.began_ms + YEAR_MS) // DAY_MS * DAY_MS)
        every, by_project = UsageFilter(), Grouping(project=True)
        ask = partial(usage, self.views.history, span=span)
        month = Period.MONTH
        one = UsageFilter(project_id="project-007")
        return {
            "usage of a year": partial(ask, every, Grouping()),
            "usage of a year by project": partial(ask, every, by_project),
            "usage of a year by pool and project": partial(
                ask, every, Grouping(pool=True, project=True)
            ),
            "usage of a year by project and month": partial(ask, every, by_project, period=month),
            "usage of a year of a project by month": partial(ask, one, Grouping(), period=month),
            "usage of a year by label": partial(ask, every, Grouping(label="team")),
        }

    def histories(self) -> dict[str, Ask]:
        """Of one pool, for charts."""
        first = self.began_ms // DAY_MS * DAY_MS
        then, last = first + 180 * DAY_MS, first + 364 * DAY_MS
        ask = partial(pool_history, self.views.history, POOL)
        return {
            "history of a pool, a year by days": partial(ask, Span(first, last), "day"),
            "history of a pool, a month by hours": partial(
                ask, Span(then, then + 30 * DAY_MS), "hour"
            ),
            "history of a pool, six hours by minutes": partial(
                ask, Span(last - 6 * 3_600_000, last), "minute"
            ),
        }

    @property
    def _number(self) -> int:
        return year.agents_of(self.ended, 1) // 2

    @property
    def middle(self) -> str:
        """The id of an agent from the middle of the year."""
        return year.agent_of(self.began_ms, self.ended, 1, self._number)

    @property
    def middle_ms(self) -> int:
        """When nothing of it had happened."""
        return year.requested_ms(self.began_ms, self.ended, 1, self._number) - 1


async def run(setup: Setup) -> Report:
    many = setup.scaled(1_000_000, 5_000)
    urls = [sqlite_url(setup.new_folder("views")) for _ in range(2)]
    figures, note = await measured(setup, "SQLite", many, *urls)
    async with postgres(setup) as few_url, postgres(setup) as many_url:
        more, other = await measured(setup, "PostgreSQL", many, few_url, many_url)
    notes = (f"{SAMPLES} times each, one after the other", note, other)
    return Report(name="million", figures=(*figures, *more), notes=notes)


async def measured(
    setup: Setup, database: str, many: int, few_url: str, many_url: str
) -> tuple[list[Figure], str]:
    """The figures of one kind of database, and how long it took to make it."""
    async with AsyncExitStack() as stack:
        open_year = partial(a_year, setup)
        few = await stack.enter_async_context(open_year(FEW, FEW_ALERTS, few_url))
        began = time.perf_counter()
        large = await stack.enter_async_context(open_year(many, MANY_ALERTS, many_url))
        note = f"{many:,} agents on {database} made in {time.perf_counter() - began:.0f} s"
        figures = []
        for name, ask in large.questions.items():
            pair = {"many": partial(asked, ask), "few": partial(asked, few.questions[name])}
            found = await interleaved(setup.rounds, pair)
            figures += of_pair(f"{name}, {database}", found, sqlite=database == "SQLite")
        return figures, note


def of_pair(name: str, found: Mapping[str, list[list[Taken]]], *, sqlite: bool) -> list[Figure]:
    """Time compared with that of a thousand, its p95, and processor time, which shows growth."""
    many, few = found["many"], found["few"]
    every = [one.ms for some in many for one in some]
    figure = partial(Figure, unit="ms", better="less")
    compared = partial(figure, compared_with=f"{FEW:,} ended", aim=1.0)
    figures = [
        compared(name=f"{name}, p50", ours=ms_of(many), baseline=ms_of(few), target=2.0),
        figure(
            name=f"{name}, p95",
            ours=(percentile(every, 95),),
            target=LIMIT_MS if name.startswith("usage") else None,
        ),
    ]
    if sqlite:
        ours, baseline = cpu_ms_of(many), cpu_ms_of(few)
        what = f"{name}, processor time"
        figures.append(compared(name=what, ours=ours, baseline=baseline, target=2.0))
    return figures


def ms_of(rounds: list[list[Taken]]) -> tuple[float, ...]:
    """The median of each round."""
    return tuple(statistics.median(one.ms for one in some) for some in rounds)


def cpu_ms_of(rounds: list[list[Taken]]) -> tuple[float, ...]:
    """The same of processor time."""
    return tuple(statistics.median(one.cpu_ms for one in some) for some in rounds)


async def asked(ask: Ask) -> list[Taken]:
    """One after the other."""
    found = []
    for _ in range(SAMPLES):
        began, cpu = time.perf_counter(), time.process_time()
        await ask()
        ms = (time.perf_counter() - began) * 1000
        found.append(Taken(ms, (time.process_time() - cpu) * 1000))
    return found


# ---- a database with a year in it ----------------------------------------------------------------


@asynccontextmanager
async def a_year(setup: Setup, ended: int, alerts: int, url: str) -> AsyncIterator[Year]:
    """The views of a year with so many agents."""
    began_ms = int(time.time() * 1000) - YEAR_MS - 3_600_000
    await written(setup.new_folder("empty"), url, ended, alerts, began_ms)
    views = Views(url)
    views.history = History(url, seconds=QUERY_SECONDS)
    await views.start()
    try:
        yield Year(views, ended, began_ms)
    finally:
        await views.stop()


async def written(folder: Path, url: str, ended: int, alerts: int, began_ms: int) -> None:
    """Archive, alerts, and views that are folded from the archive."""
    database = Database(url)
    database.open()
    await database.prepare()
    await year.archive_year(database, ended, began_ms)
    await year.add_alerts(database, alerts, began_ms + YEAR_MS)
    await database.close()
    server = ValkeyServer(folder / "redis", appendfsync=None, tcp=False)
    server.start()
    try:
        await replay(RebuildOptions(redis_url=server.url, database_url=url), lambda _: None)
    finally:
        server.stop()
    if url.startswith("postgresql"):  # what its autovacuum does by and by
        engine = create_engine(database.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("VACUUM ANALYZE"))
        engine.dispose()
