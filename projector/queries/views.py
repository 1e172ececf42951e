"""The read side: the module of the projector that the gateway imports."""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import msgspec
from sqlalchemy import Connection

from projector.explain.answers import explain_agent, explain_pool, explain_worker
from projector.fold.projection import read_positions
from projector.history.history import ArchiveUnreadable, History
from projector.history.positions import ArchiveIncomplete, AsOf, NotYetArchived, PointInTime
from projector.history.replay import TooExpensive, row_of_pool
from projector.intake import archive
from projector.intake.archive import EventRange, id_order
from projector.intake.source import is_lost
from projector.queries import live, selects
from projector.queries.attention import WaitingAgents, failures_of, waiting
from projector.queries.database_server import read_server
from projector.queries.pool_history import HistoryRefused, pool_history
from projector.queries.sharing import SharedQueries
from projector.queries.spans import Period, Span, TooManyParts
from projector.queries.usage import ROWS_MAX as USAGE_ROWS_MAX
from projector.queries.usage import Grouping, UsageFilter, usage
from projector.store import agent_states, archive_starts
from projector.store.alerts import AlertRow, closed_alerts
from projector.store.archive_starts import ArchivePruned
from projector.store.capacity import WAITS_FOR_CLAIM, WAITS_FOR_ISOLATION
from projector.store.database import Database, DatabaseError
from projector.store.explanations import Explanation
from projector.store.failures import reason
from projector.store.rows import (
    AgentFilter,
    AgentRow,
    EventRow,
    HostRow,
    PoolRow,
    Position,
    Timed,
    WorkerRow,
    page,
)
from projector.store.tables import SERVING
from projector.store.usage_rows import PoolHistory, UsageReport
from projector.store.views_file import DatabaseUnreachable

__all__ = [
    "HISTORY_SECONDS", "AgentFilter", "AgentRow", "AlertRow", "ArchiveIncomplete",
    "ArchivePruned", "AsOf",
    "DatabaseError", "DatabaseUnreachable", "EventRow", "Explanation", "History", "HostRow",
    "PointInTime", "NotYetArchived", "PoolRow", "Position", "Timed", "TooExpensive", "EventRange",
    "ArchiveUnreadable", "Views", "WAITS_FOR_CLAIM", "WAITS_FOR_ISOLATION", "WorkerRow",
    "explain_agent", "explain_pool", "explain_worker", "id_order", "is_lost", "page", "reason",
    "row_of_pool", "Grouping", "HistoryRefused", "Period", "PoolHistory", "Span", "TooManyParts",
    "USAGE_ROWS_MAX", "UsageFilter", "UsageReport", "WaitingAgents", "pool_history", "usage",
]  # fmt: skip

CONNECTIONS: Final = 4
HISTORY_SECONDS: Final = 4.0
"""How long a query of the past may take."""
POLL_MIN_SECONDS: Final = 0.001
POLL_MAX_SECONDS: Final = 0.02

P = ParamSpec("P")
T = TypeVar("T")


def _query(
    work: Callable[Concatenate[Connection, P], T],
) -> Callable[Concatenate["Views", P], Coroutine[Any, Any, T]]:
    """A function of a connection as a method that runs it in a transaction."""

    @functools.wraps(work)
    async def run(self: "Views", /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = work, msgspec.json.encode((args, kwargs))

        def read() -> Coroutine[Any, Any, T]:
            return self._database.read_with_retry(lambda c: work(c, *args, **kwargs))

        return await self._shared.ask(key, read)

    return run


class Views:
    """Queries over the views of one database. All methods are coroutines and read-only.

    Each query sees one snapshot of the database, and raises `DatabaseError` where the database does
    not answer. Raises `ConfigurationError` for an address of an unsupported database.
    """

    def __init__(self, database_url: str) -> None:
        self._database = Database(database_url, connections=CONNECTIONS, only_reads=True)
        self.history = History(database_url, seconds=HISTORY_SECONDS)
        """The same queries, of the past."""
        self._shared = SharedQueries()
        self._positions: dict[str, Position] = {}
        self._refresh_lock = asyncio.Lock()

    @property
    def name(self) -> str:
        """Of the database, for messages: a file, or what kind of server."""
        return f"{self._database.url.database}" if self._database.sqlite else "the database"

    def open(self) -> None:
        """Set up for reading only: no tables are created where no projector has run."""
        self._database.open()

    async def start(self) -> None:
        """Connect. Where no projector has run yet, empty tables are created."""
        self._database.open()
        self.history.database.open()
        await self._database.prepare()

    async def stop(self) -> None:
        """Close all connections. Safe to call twice."""
        await self.history.database.close()
        await self._database.close()

    # ---- how far the views are ---------------------------------------------------------------

    async def positions(self) -> dict[str, Position]:
        """Every checkpoint, by pool."""
        self._positions = await self._database.read_with_retry(lambda c: read_positions(c, SERVING))
        return self._positions

    async def wait_for(self, pool: str, seq: int, *, timeout_seconds: float) -> bool:
        """Wait until the pool's views have reached `seq`; False if they have not in time.

        However many callers wait, one at a time reads the database, for all of them.
        """
        deadline = time.monotonic() + timeout_seconds
        delay = POLL_MIN_SECONDS
        while not self._has_reached(pool, seq):
            known = self._positions
            async with self._refresh_lock:
                if known is self._positions:
                    await self.positions()
            if self._has_reached(pool, seq):
                break
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            await asyncio.sleep(min(delay, remaining))
            delay = min(delay * 2, POLL_MAX_SECONDS)
        return True

    def _has_reached(self, pool: str, seq: int) -> bool:
        return self._positions.get(pool, Position(pool)).seq >= seq

    # ---- queries: `selects` and `archive` describe them ----------------------------------------

    agents = _query(selects.agents)
    agent = _query(selects.agent)
    agent_state = _query(selects.agent_state)
    saved_state = _query(agent_states.read)
    closed_alerts = _query(closed_alerts)
    lost_states = _query(selects.lost_states)
    server = _query(read_server)
    find_ids = _query(selects.find_ids)
    has_project = _query(selects.has_project)
    projects = _query(selects.projects)
    projects_of = _query(selects.projects_of)
    count_agents = _query(selects.count_agents)
    failures_of = _query(failures_of)
    waiting = _query(waiting)
    workers = _query(selects.workers)
    worker = _query(selects.worker)
    pools = _query(selects.pools)
    pool = _query(selects.pool)
    hosts = _query(selects.hosts)
    running = _query(live.running)
    last_hour = _query(live.last_hour)
    tokens = _query(selects.tokens)
    events = _query(selects.events)
    recent = _query(selects.recent)
    archived = _query(archive.after)
    archive_starts = _query(archive_starts.read_starts)
    archived_before = _query(archive.before)
    archived_id = _query(archive.id_before)
