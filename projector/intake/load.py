"""How many agents a pool had in each step of the last weeks, from its archived events.

What began and ended is summed in pages, and the sum is anchored at the number of agents that the
views have now. So neither events from before the first page need to be known, nor what else may
have become of an agent.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct, field
from sqlalchemy import Connection

from eventstore.language.agents import TERMINAL, Status
from eventstore.language.events import AgentFailed, AgentRequested, AgentTerminated
from eventstore.language.forecast import KEPT_MS, STEP_MS, LoadHistory
from projector.intake.archive import GenerationRange, first_seq_at, generation_ranges
from projector.store.tables import run

PAGE: Final = 100_000
"""Events in one read: a long transaction would keep the log of SQLite from being cut."""


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(f"'{text}'" for text in texts)


_CHANGES: Final = f"""
SELECT step, max(running), sum(change) FROM (
    SELECT step, change, sum(change) OVER (ORDER BY seq) AS running FROM (
        SELECT seq, ts / {STEP_MS} AS step,
            CASE type WHEN '{AgentRequested.type}' THEN 1 ELSE -1 END AS change
        FROM {{}}events WHERE pool = ? AND generation = ? AND seq BETWEEN ? AND ?
            AND type IN ({_listed((AgentRequested.type, AgentTerminated.type, AgentFailed.type))})
    ) AS changes
) AS sums GROUP BY step ORDER BY step
"""
_LIVE: Final = (
    "SELECT count(*) FROM {}agents WHERE pool_name = ?"
    f" AND status IN ({_listed(status for status in Status if status not in TERMINAL)})"
)


class PoolLoad(Struct):
    """The load of one pool, up to the end of the archive as of the last read."""

    pool: str
    history: LoadHistory = field(default_factory=LoadHistory)
    seq: int = 0
    """Of the last event that was read; 0: none was."""
    _unanchored: list[tuple[int, int, int]] = []
    """Of steps: when they began, and the highest and the last load, relative to that of the first
    event that was read since the load was known."""
    _change: int = 0

    def read_page(self, connection: Connection, now_ms: int) -> bool:
        """Read some events; True: all were read, and `history` has them."""
        parts = generation_ranges(connection, self.pool)
        if not self.seq:
            self.seq = first_seq_at(connection, parts, now_ms - KEPT_MS) - 1
        part = next((part for part in parts if part.last > self.seq), None)
        if part is not None:
            self._sum(connection, part)
        if any(part.last > self.seq for part in parts):
            return False
        live = run(connection, _LIVE, self.pool).scalar_one()
        start, self._change = live - self._change, 0
        for began_ms, highest, last in self._unanchored:
            self.history.observe(began_ms, start + highest)
            self.history.observe(began_ms, start + last)
        self._unanchored = []
        self.history.observe(now_ms, live)
        return True

    def _sum(self, connection: Connection, part: GenerationRange) -> None:
        first, before = max(self.seq + 1, part.first), self._change
        self.seq = min(first + PAGE - 1, part.last)
        of_page = (self.pool, part.generation, first, self.seq)
        for step, highest, change in run(connection, _CHANGES, *of_page):
            self._change += change
            self._unanchored.append((step * STEP_MS, before + highest, self._change))
