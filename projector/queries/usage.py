"""What was used in a span, by project, pool, role or label: the difference of sums at its ends.

A span includes its start and not its end. It may be divided at the hours, days or months of UTC.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace
from sqlalchemy import Connection, select

from projector.fold.projection import read_positions
from projector.history.history import History
from projector.queries.agent_pages import names_in
from projector.queries.spans import Period, Span, parts_of
from projector.queries.usage_sums import PoolSums
from projector.store.rows import Position
from projector.store.tables import SERVING, run
from projector.store.usage_rows import (
    COUNTS,
    LEVELS,
    NO_LABELS,
    OTHER_LABELS,
    POOL_ACCOUNT,
    Account,
    Sums,
    Usage,
    UsageReport,
    UsageRow,
)

ROWS_MAX: Final = 10_000
_SUMMED: Final = (*COUNTS, *(f"{name}_ms" for name in LEVELS))
_POOL_ONLY: Final = ("workers_ms", "slots_ms")
Group: TypeAlias = tuple[int, str | None, str | None, str | None, str | None]
"""The step of the span; pool, role, project and label, None where it is not grouped by that."""
_labels: Final = msgspec.json.Decoder(dict[str, str])


class UsageFilter(Struct, frozen=True, kw_only=True):
    """Of which agents; None means any. `label`: name and value.

    `pools`, `projects`: only of these, whatever else is asked for.
    """

    pool_name: str | None = None
    role_type: str | None = None
    project_id: str | None = None
    label: tuple[str, str] | None = None
    pools: tuple[str, ...] | None = None
    projects: tuple[str, ...] | None = None

    @property
    def has_workers(self) -> bool:
        """Whether workers belong to it: to projects and labels they do not."""
        return self.project_id is None and self.projects is None and self.label is None

    def includes(self, account: Account, labels: Mapping[str, str]) -> bool:
        label = self.label
        return (
            self.role_type in (None, account.role_type)
            and self.project_id in (None, account.project_id)
            and (self.projects is None or account.project_id in self.projects)
            and (label is None or labels.get(label[0]) == label[1])
        )


class Grouping(Struct, frozen=True, kw_only=True):
    """By what. `label`: the name of a label."""

    pool: bool = False
    role: bool = False
    project: bool = False
    label: str | None = None

    @property
    def has_workers(self) -> bool:
        """As that of a filter."""
        return not self.project and self.label is None

    def group(self, step: int, account: Account, labels: Mapping[str, str]) -> Group:
        return (
            step,
            account.pool_name if self.pool else None,
            account.role_type if self.role else None,
            account.project_id if self.project else None,
            None if self.label is None else labels.get(self.label),
        )


async def usage(
    history: History,
    wanted: UsageFilter,
    by: Grouping,
    span: Span,
    *,
    period: Period | None = None,
    limit: int = ROWS_MAX,
) -> UsageReport:
    """The usage of a span. Raises `TooManyParts`, and what the history raises."""

    def work(connection: Connection, deadline: float) -> UsageReport:
        pools = _pools(connection, wanted)
        ends = parts_of(span.since_ms, span.end(connection, pools), period)
        return _usage(connection, deadline, pools, wanted, by, ends, limit)

    return await history.query(work)


class _Sum(Struct):
    """Of one group: `agents` at its start, and what was added of all that is summed."""

    agents: int = 0
    added: dict[str, int] = msgspec.field(default_factory=dict)
    has_workers: bool = True

    def add(self, old: Sums | None, new: Sums, *, workers: bool) -> None:
        """The difference of an account; `workers`: of its workers, else of its agents."""
        if not workers:
            self.agents += old.agents if old else 0
        for name in _SUMMED:
            if (name in _POOL_ONLY) is workers:
                before = getattr(old, name) if old else 0
                self.added[name] = self.added.get(name, 0) + getattr(new, name) - before

    @property
    def is_empty(self) -> bool:
        return not self.agents and not any(self.added.values())

    def usage(self) -> Usage:
        counts = {name: self.added.get(name, 0) for name in COUNTS}
        seconds = {name: self.added.get(f"{name}_ms", 0) / 1000 for name in LEVELS}
        return Usage(
            agents=self.agents + counts["requested"],
            agent_seconds=seconds["agents"],
            waiting_seconds=seconds["pending"],
            slot_seconds=seconds["slots_used"],
            worker_seconds=seconds["workers"] if self.has_workers else None,
            capacity_seconds=seconds["slots"] if self.has_workers else None,
            **counts,
        )


def _usage(
    connection: Connection,
    deadline: float,
    pools: Iterable[str],
    wanted: UsageFilter,
    by: Grouping,
    ends: Sequence[int],
    limit: int,
) -> UsageReport:
    positions, roles = read_positions(connection, SERVING), _roles(connection)
    where, values = _accounts(wanted)
    found = _Found(wanted, by)
    for pool in pools:
        ts = positions.get(pool, Position(pool)).ts
        sums = PoolSums(connection, deadline, pool, ts, where, values)
        first = old = sums.at(ends[0])
        for step, end in enumerate(ends[1:]):
            new = sums.at(end)
            found.add(step, roles.get(pool, ""), old, new)
            old = new
        found.add(None, roles.get(pool, ""), first, old)
    rows = found.rows(ends)
    return UsageReport(
        since=ends[0],
        until=ends[-1],
        rows=rows[:limit],
        total=found.total.usage(),
        left_out=max(len(rows) - limit, 0),
    )


class _Found:
    """What was found of all pools so far."""

    def __init__(self, wanted: UsageFilter, by: Grouping) -> None:
        self._wanted = wanted
        self._by = by
        self.total = _Sum(has_workers=wanted.has_workers)
        self._groups: dict[Group, _Sum] = {}

    def add(
        self, step: int | None, role: str, old: Mapping[Account, Sums], new: Mapping[Account, Sums]
    ) -> None:
        """What the accounts of a pool have more; `step` None: in the whole span."""
        wanted, by = self._wanted, self._by
        for stored, sums in new.items():
            workers, labels = stored.account == POOL_ACCOUNT, _labels_of(stored)
            account = replace(stored, role_type=role) if workers else stored
            with_workers = wanted.has_workers and (step is None or by.has_workers)
            if (workers and not with_workers) or not wanted.includes(account, labels):
                continue
            before = old.get(stored)
            if step is None:
                self.total.add(before, sums, workers=workers)
            else:
                self._of(by.group(step, account, labels)).add(before, sums, workers=workers)

    def _of(self, group: Group) -> _Sum:
        if group not in self._groups:
            has_workers = self._wanted.has_workers and self._by.has_workers
            self._groups[group] = _Sum(has_workers=has_workers)
        return self._groups[group]

    def rows(self, ends: Sequence[int]) -> list[UsageRow]:
        """Of groups of which there was anything, in the order of the steps and their names."""
        ordered = sorted(self._groups, key=lambda group: (group[0], *map(_order, group[1:])))
        rows = []
        for group in ordered:
            step, pool, role, project, label = group
            found = self._groups[group]
            if found.is_empty:
                continue
            row = UsageRow(
                pool_name=pool,
                role_type=role,
                project_id=project,
                label=label,
                since=ends[step],
                until=ends[step + 1],
                **asdict(found.usage()),
            )
            rows.append(row)
        return rows


def _order(name: str | None) -> tuple[bool, str]:
    return name is None, name or ""


def _labels_of(account: Account) -> Mapping[str, str]:
    if account.labels in (NO_LABELS, OTHER_LABELS):
        return {}
    return _labels.decode(account.labels)


def _accounts(wanted: UsageFilter) -> tuple[str, tuple[str, ...]]:
    """The condition that selects the accounts, as SQL, and its values; labels are not in it."""
    named = {"role_type": wanted.role_type, "project_id": wanted.project_id}
    given = {name: value for name, value in named.items() if value is not None}
    if not given:
        return "", ()
    condition = " AND ".join(f"a.{name} = ?" for name in given)
    return f"AND (a.account = {POOL_ACCOUNT} OR {condition})", tuple(given.values())


def _pools(connection: Connection, wanted: UsageFilter) -> list[str]:
    """Pools that ever had anything, removed ones too."""
    if wanted.pool_name is not None:
        found = [wanted.pool_name]
    else:
        name = names_in(SERVING.usage_accounts.c.pool_name).c.name
        found = list(connection.execute(select(name).where(name.is_not(None))).scalars())
    return [pool for pool in found if wanted.pools is None or pool in wanted.pools]


def _roles(connection: Connection) -> dict[str, str]:
    """The role of each pool: that of its agents where the catalogue does not have it any more."""
    of_agents = "SELECT pool_name, role_type FROM {}usage_accounts WHERE account <> 0"
    of_pools = "SELECT pool_name, role_type FROM {}pools"
    return {
        row.pool_name: row.role_type for q in (of_agents, of_pools) for row in run(connection, q)
    }
