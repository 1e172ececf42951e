"""The running sums of usage, as they are stored, and as they are answered.

An *account* is what is billed together: the agents of one pool, role, project and set of labels.
Account 0 is the whole pool, its workers included. A row has what an account had come to, since the
pool's first event, at its last change within a minute: how many agents it has, each number also
multiplied by the time that it lasted (`…_ms`), and how often things happened. So what happened in a
span is a difference of two rows, whatever its length, and minutes without a change have no row.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from projector.store.mapping import RowCodec
from projector.store.rows import Timed

MINUTE_MS: Final = 60_000
MINUTES_OF: Final = {"minute": 1, "hour": 60, "day": 1440}
NO_LABELS: Final = "{}"
OTHER_LABELS: Final = "null"
"""Of the agents with labels beyond those that have accounts of their own."""
POOL_ACCOUNT: Final = 0


class Account(Struct, frozen=True):
    """One row of `usage_accounts`. `labels`: a JSON object, sorted by name."""

    pool_name: str
    account: int
    """A number that follows from the next three."""
    role_type: str
    project_id: str
    labels: str


class Sums(Struct, frozen=True):
    """One row of `usage_sums`: an account after the last event of a minute that changed it."""

    pool_name: str
    account: int
    minute: int
    """Minutes since 1970."""
    seq: int = 0
    """Of that event."""
    at: int = 0
    """Its log time in ms."""
    agents: int = 0
    pending: int = 0
    slots_used: int = 0
    workers: int = 0
    slots: int = 0
    """Of these workers."""
    requested: int = 0
    ended: int = 0
    failures: int = 0
    losses: int = 0
    restarts: int = 0
    claims: int = 0
    cold_starts: int = 0
    agents_ms: int = 0
    pending_ms: int = 0
    slots_used_ms: int = 0
    workers_ms: int = 0
    slots_ms: int = 0


NAMES: Final = Sums.__struct_fields__
LEVELS: Final = ("agents", "pending", "slots_used", "workers", "slots")
"""Numbers that last until they change; of each `…_ms` has the sum over time."""
COUNTS: Final = (
    "requested", "ended", "failures", "losses", "restarts", "claims", "cold_starts",
)  # fmt: skip
ACCOUNTS: Final = RowCodec(Account, keys="pool_name account")
SUMS: Final = RowCodec(
    Sums,
    keys="pool_name account minute",
    renamed={f"{name}_ms": f"{name}_ms" for name in LEVELS},
)


class Usage(Struct, frozen=True, kw_only=True):
    """What was used. Seconds are exact to the millisecond.

    Workers belong to pools: of a project or label their seconds are null.
    """

    agents: int = 0
    """That lived in the span."""
    requested: int = 0
    """Of these, in the span."""
    ended: int = 0
    failures: int = 0
    losses: int = 0
    restarts: int = 0
    claims: int = 0
    """How often one got a slot."""
    cold_starts: int = 0
    """How often the worker of that slot had started only after the agent was queued."""
    agent_seconds: float = 0.0
    waiting_seconds: float = 0.0
    slot_seconds: float = 0.0
    worker_seconds: float | None = 0.0
    capacity_seconds: float | None = 0.0
    """Slots that workers had, used or not, times their seconds."""


class UsageRow(Usage, Timed, frozen=True, kw_only=True):
    """Of one group, in one part of the span. What it is not grouped by is null."""

    pool_name: str | None = None
    role_type: str | None = None
    project_id: str | None = None
    label: str | None = None
    """The value of the label that was asked for; null also for agents without it."""
    since: int | None = None
    since_time: datetime | None = None
    until: int | None = None
    until_time: datetime | None = None


class UsageReport(Timed, frozen=True, kw_only=True):
    """The usage of a span, which includes its start and not its end."""

    since: int | None
    since_time: datetime | None = None
    until: int | None
    until_time: datetime | None = None
    rows: Sequence[UsageRow] = ()
    total: Usage = Usage()
    left_out: int = 0
    """Rows beyond the limit; the total has them."""


class HistoryPoint(Timed, frozen=True, kw_only=True):
    """A step of a pool's history.

    `…_mean`: over the time of the step, exact to the millisecond; without it: at its end.
    """

    since: int | None
    since_time: datetime | None = None
    agents: int
    agents_mean: float
    workers: int
    workers_mean: float
    slots: int
    slots_mean: float
    slots_used: int
    slots_used_mean: float
    pending: int
    pending_mean: float
    arrivals: int
    ends: int
    failures: int
    losses: int
    restarts: int
    cold_starts: int


class PoolHistory(Timed, frozen=True, kw_only=True):
    """The steps of a span, all of one length but the last one, which may not be over."""

    pool_name: str
    step: str
    since: int | None
    since_time: datetime | None = None
    until: int | None
    until_time: datetime | None = None
    points: Sequence[HistoryPoint] = ()


_HISTORY: Final = """
CREATE VIEW {{schema}}{name} AS
SELECT newer.pool_name, newer.minute / {step} * {step} * 60000 AS since, newer.at,
    newer.agents, newer.workers, newer.slots, newer.slots_used, newer.pending,
    newer.requested - coalesce(older.requested, 0) AS arrivals,
    newer.ended - coalesce(older.ended, 0) AS ends,
    newer.failures - coalesce(older.failures, 0) AS failures,
    newer.losses - coalesce(older.losses, 0) AS losses,
    newer.restarts - coalesce(older.restarts, 0) AS restarts,
    newer.cold_starts - coalesce(older.cold_starts, 0) AS cold_starts
FROM {{schema}}usage_sums newer LEFT JOIN {{schema}}usage_sums older
    ON older.pool_name = newer.pool_name AND older.account = 0 AND older.minute = (
        SELECT max(minute) FROM {{schema}}usage_sums
        WHERE pool_name = newer.pool_name AND account = 0
            AND minute < newer.minute / {step} * {step})
WHERE newer.account = 0 AND NOT EXISTS (
    SELECT * FROM {{schema}}usage_sums later
    WHERE later.pool_name = newer.pool_name AND later.account = 0
        AND later.minute > newer.minute AND later.minute < (newer.minute / {step} + 1) * {step})
"""
HISTORY_VIEWS: Final = {
    f"pool_{unit}s": _HISTORY.format(name=f"pool_{unit}s", step=step)
    for unit, step in MINUTES_OF.items()
}
"""For each pool and minute, hour or day in which something changed: what changed, and what the pool
had at its end, and has until the next row."""
HISTORY_COLUMNS: Final = (
    "pool_name", "since", "at", "agents", "workers", "slots", "slots_used", "pending",
    "arrivals", "ends", "failures", "losses", "restarts", "cold_starts",
)  # fmt: skip
