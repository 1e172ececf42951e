"""The sums of a pool's accounts at any point in time, exact to the event.

Up to the last minute (hour, day) that is complete by then they are read from its row. What followed
within that minute is folded from the archive, by the rules of the projector; not where the pool
had no later event, nor where the time is the start of a minute.
"""

from collections.abc import Iterable, Mapping
from itertools import starmap
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection

from eventstore.language.events import Event
from projector.fold.fold import State, WorkerLoad, fold, touched_agents, touched_workers
from projector.history.positions import ArchiveIncomplete, LogPosition, position_at_event
from projector.history.replay import CHUNK, HistoricalState
from projector.intake.archive import generation_ranges
from projector.intake.entries import event_of
from projector.store.mapping import chunks
from projector.store.rows import EventRow
from projector.store.tables import EVENTS, run
from projector.store.usage_rows import MINUTE_MS, NAMES, POOL_ACCOUNT, Account, Sums
from projector.usage.accounts import LABELLED_MAX
from projector.usage.ledger import grain_at
from projector.usage.tally import Tally, brought_to

_ACCOUNT: Final = Account.__struct_fields__
_BEFORE: Final = f"""
SELECT {", ".join(f"a.{name}" for name in _ACCOUNT)}, {", ".join(f"s.{name}" for name in NAMES[2:])}
FROM {{}}usage_accounts a LEFT JOIN {{}}usage_sums s
    ON s.pool_name = a.pool_name AND s.account = a.account AND s.minute = (
        SELECT max(m.minute) FROM {{}}usage_sums m
        WHERE m.pool_name = a.pool_name AND m.account = a.account AND m.minute < ?)
WHERE a.pool_name = ?
"""
_LAST_CHANGE: Final = f"""
SELECT at, seq FROM {{}}usage_sums WHERE pool_name = ? AND account = {POOL_ACCOUNT}
    AND minute >= ? AND minute < ? ORDER BY minute DESC LIMIT 1
"""


class PoolSums(Struct, frozen=True):
    """Reads those of one pool, within one transaction that has `deadline` (monotonic seconds).

    `ts`: of the last event of the pool that the views have. `where`: which accounts, as SQL with
    its values; that of the pool is always read.
    """

    connection: Connection
    deadline: float
    pool: str
    ts: int
    where: str = ""
    values: tuple[str, ...] = ()

    def at(self, at_ms: int) -> dict[Account, Sums]:
        """The accounts with all events before that time. Raises `ArchiveIncomplete`."""
        grain = grain_at(at_ms, self.ts)
        first = at_ms // MINUTE_MS // grain * grain
        if at_ms == first * MINUTE_MS:
            return self._brought_to(self._rows_before(first), at_ms)
        of_pool = (self.pool, first, first + grain)
        last = run(self.connection, _LAST_CHANGE, *of_pool).first()
        if last is None or last.at < at_ms:
            return self._brought_to(self._rows_before(first + grain), at_ms)
        found = self._rows_before(first, every=True)
        return self._brought_to(self._followed(found, at_ms, last.seq), at_ms)

    def _rows_before(self, minute: int, *, every: bool = False) -> dict[Account, Sums]:
        """The last rows before a minute; of accounts that had none, sums of nothing."""
        where, values = ("", ()) if every else (self.where, self.values)
        found: dict[Account, Sums] = {}
        for row in run(self.connection, f"{_BEFORE} {where}", minute, self.pool, *values):
            account = Account(*row[: len(_ACCOUNT)])
            sums = row[len(_ACCOUNT) :]
            of = (self.pool, account.account)
            found[account] = Sums(*of, 0) if sums[0] is None else Sums(*of, *sums)
        return found

    @staticmethod
    def _brought_to(found: Mapping[Account, Sums], at_ms: int) -> dict[Account, Sums]:
        return {account: brought_to(sums, at_ms) for account, sums in found.items()}

    def _followed(
        self, found: Mapping[Account, Sums], at_ms: int, last: int
    ) -> dict[Account, Sums]:
        """With the events after these rows, up to seq `last` and before a time."""
        by_key = {(a.role_type, a.project_id, a.labels): a for a in found}
        # All accounts that there will be are known: who has none of these shares one.
        sums = {key: found[account] for key, account in by_key.items()}
        tally = Tally(self.pool, sums, LABELLED_MAX)
        of_pool = next((s for a, s in found.items() if a.account == POOL_ACCOUNT), None)
        done = of_pool.seq if of_pool else 0
        events = self._events(done, last, at_ms)
        fold(self.pool, events, self._state(done, events), tally=tally)
        tally.close()
        return {account: tally.sums[key] for key, account in by_key.items()}

    def _events(self, done: int, last: int, at_ms: int) -> list[Event]:
        rows: list[EventRow] = []
        parts = generation_ranges(self.connection, self.pool)
        for part in parts:
            query = part.rows(first=done + 1, end=last + 1).where(EVENTS.c.ts < at_ms)
            found = self.connection.execute(query.order_by(EVENTS.c.seq)).all()
            rows += starmap(EventRow, found)
        first = parts[0].first if parts else last + 1
        if first > done + 1 or (rows and rows[-1].seq - done != len(rows)):
            raise ArchiveIncomplete(self.pool, max(first, done + 1), at_ms)
        return [event_of(row) for row in rows]

    def _state(self, done: int, events: Iterable[Event]) -> State:
        """The agents and workers that these events touch, as they were before them."""
        events = list(events)
        position = LogPosition(self.pool, (), 0, at_end=False)
        if done:
            position = position_at_event(self.connection, self.pool, done)
        history = HistoricalState(self.connection, position, self.deadline)
        agents: dict[str, Any] = {}
        touched = touched_agents(events)
        for ids in chunks(sorted(touched), CHUNK):
            agents |= {name: agent for name, (agent, _) in history.agents(ids).items()}
        if len(agents) < len(touched):
            raise ArchiveIncomplete(self.pool, position.seq + 1, position.ts)
        workers = history.workers(sorted(touched_workers(events, agents.values())))
        loads = {name: WorkerLoad(worker) for name, worker in workers.items()}
        return State(agents, loads)
