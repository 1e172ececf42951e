"""Compares the sums of usage with a fold of the log in one piece.

The projector has brought them forward batch by batch, from rows and caches, and thinned them as
time went on. Here they are made from the first event on, and thinned once.
"""

import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from msgspec.structs import asdict, astuple
from sqlalchemy import Connection

from eventstore.language.agents import Agent
from eventstore.language.events import Event
from eventstore.language.workers import Worker
from projector.store.archive_starts import Entry, usage_entry
from projector.store.tables import run
from projector.store.usage_rows import NAMES, NO_LABELS, OTHER_LABELS, Account, Sums
from projector.usage.accounts import Key
from projector.usage.ledger import thinned
from projector.usage.tally import Tally, WorkerOf
from projector.verify.report import Report

PAGE: Final = 1000
_SELECT: Final = f"SELECT {', '.join(NAMES)} FROM {{}}usage_sums WHERE pool_name = ?"
_AFTER: Final = f"{_SELECT} AND (account, minute) > (?, ?) ORDER BY account, minute LIMIT {PAGE}"
_ACCOUNTS: Final = (
    f"SELECT {', '.join(Account.__struct_fields__)} FROM {{}}usage_accounts WHERE pool_name = ?"
)


class UsageFold:
    """Of one pool. Its rows are in a private SQLite database that is deleted with it."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.accounts: dict[int, Account] = {}
        self._tally = Tally(pool, {})
        self._rows = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._rows.execute("PRAGMA journal_mode = OFF")
        columns = ", ".join(f"{name} INTEGER" for name in NAMES[1:])
        key = "PRIMARY KEY (account, minute)"
        self._rows.execute(f"CREATE TABLE sums ({columns}, {key}) WITHOUT ROWID")
        self._rows.execute("BEGIN")
        weakref.finalize(self, self._rows.close)

    def agent(self, event: Event, old: Agent | None, new: Agent, worker_of: WorkerOf) -> None:
        self._tally.agent(event, old, new, worker_of)

    def worker(self, event: Event, old: Worker | None, new: Worker) -> None:
        self._tally.worker(event, old, new)

    def store(self) -> None:
        """Move what is complete out of memory."""
        tally = self._tally
        tally.close()
        self.accounts |= {one.account: one for one in tally.opened}
        rows = [astuple(row)[1:] for row in tally.rows.values()]
        marks = ", ".join("?" * len(NAMES[1:]))
        self._rows.executemany(f"INSERT OR REPLACE INTO sums VALUES ({marks})", rows)
        tally.opened.clear()
        tally.rows.clear()

    def entries(self, ts: int) -> list[Entry]:
        """What all accounts had come to, for the snapshot of a log that is pruned at `ts`."""
        found = {number: list(rows) for number, rows in groupby(self.rows(ts), _account)}
        return [usage_entry(one, found.get(one.account, [])) for one in self.accounts.values()]

    def start_from(self, usage: Iterable[tuple[Account, Sequence[Sums]]]) -> None:
        """Begin with that."""
        marks = ", ".join("?" * len(NAMES[1:]))
        newest: dict[Key, Sums] = {}
        for account, rows in usage:
            self.accounts[account.account] = account
            values = [astuple(row)[1:] for row in rows]
            self._rows.executemany(f"INSERT INTO sums VALUES ({marks})", values)
            key = (account.role_type, account.project_id, account.labels)
            newest[key] = rows[-1] if rows else Sums(self.pool, account.account, 0)
        labelled = sum(labels not in (NO_LABELS, OTHER_LABELS) for _, _, labels in newest)
        self._tally = Tally(self.pool, newest, labelled)

    def rows(self, ts: int) -> Iterator[Sums]:
        """By account and minute, as they are stored once the log is at `ts`."""
        found = self._rows.execute("SELECT * FROM sums ORDER BY account, minute")
        sums = (Sums(self.pool, *row) for row in found)
        for _, of_account in groupby(sums, _account):
            yield from thinned(of_account, ts)


def _account(row: Sums) -> int:
    return row.account


def compare_usage(connection: Connection, fold: UsageFold, ts: int, report: Report) -> None:
    """Compare the rows of a pool. `ts`: of the last event that they have."""
    pool = fold.pool
    accounts = {row.account: Account(*row) for row in run(connection, _ACCOUNTS, pool)}
    for number in sorted(fold.accounts.keys() | accounts.keys()):
        subject = ("views", pool, f"usage_accounts/{number}")
        report.compare(subject, _fields(fold.accounts.get(number)), _fields(accounts.get(number)))
    for wanted, found in _pairs(fold.rows(ts), _stored(connection, pool)):
        row = wanted or found
        assert row is not None
        subject = ("views", pool, f"usage_sums/{row.account}/{row.minute}")
        report.compare(subject, _fields(wanted), _fields(found))


def _fields(row: Any) -> dict[str, Any] | None:
    return None if row is None else asdict(row)


def _stored(connection: Connection, pool: str) -> Iterator[Sums]:
    account, minute = -1, 0
    while page := [Sums(*row) for row in run(connection, _AFTER, pool, account, minute)]:
        yield from page
        account, minute = page[-1].account, page[-1].minute


def _pairs(
    wanted: Iterable[Sums], found: Iterable[Sums]
) -> Iterator[tuple[Sums | None, Sums | None]]:
    """Rows of the same account and minute; None for one that is missing."""
    rows, others = iter(wanted), iter(found)
    one, other = next(rows, None), next(others, None)
    while one is not None or other is not None:
        key = (one.account, one.minute) if one else None
        other_key = (other.account, other.minute) if other else None
        if other_key is None or (key is not None and key < other_key):
            yield one, None
            one = next(rows, None)
        elif key is None or other_key < key:
            yield None, other
            other = next(others, None)
        else:
            yield one, other
            one, other = next(rows, None), next(others, None)
