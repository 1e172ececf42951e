"""The alerts of the past, as the database has them: an archive that cannot be rebuilt.

The stream of alerts has each until it was stored here, and for some time after that. To store an
event again changes nothing.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy import Connection, delete, func, select, update

from eventstore.language.alerts import AlertClosed, AlertEvent, AlertOpened, Case
from projector.store.mapping import chunks
from projector.store.tables import ALERTS, write_rows

IDS_MAX: Final = 500
_A: Final = ALERTS.c


class AlertRow(Struct, frozen=True):
    """One alert. Times in ms since 1970; `closed_at` 0: it is open. `newest`: JSON."""

    alert_id: str
    name: str
    severity: str
    subject: str
    pool_name: str
    count: int
    newest: str
    message: str
    action: str
    runbook: str
    opened_at: int
    closed_at: int

    @property
    def cases(self) -> tuple[Case, ...]:
        return msgspec.json.decode(self.newest, type=tuple[Case, ...])


NAMES: Final = AlertRow.__struct_fields__


def count_open(connection: Connection) -> dict[tuple[str, str], int]:
    """How many are open, by name and severity."""
    query = select(_A.name, _A.severity, func.count()).where(_A.closed_at == 0)
    found = connection.execute(query.group_by(_A.name, _A.severity))
    return {(name, severity): count for name, severity, count in found}


def store(connection: Connection, events: Sequence[AlertEvent]) -> None:
    """Store events in their order."""
    opened: dict[str, AlertRow] = {}
    closed: dict[str, AlertClosed] = {}
    for event in events:
        if isinstance(event.body, AlertOpened):
            opened[event.alert_id] = _row(event.alert_id, event.body)
        else:
            closed[event.alert_id] = event.body
            if event.alert_id not in opened:  # it is here already, or nothing else is known of it
                opened[event.alert_id] = _row_of_end(event.alert_id, event.body)
    write_rows(connection, ALERTS, NAMES, [astuple(row) for row in opened.values()], "skip")
    for alert_id, body in closed.items():
        change: dict[str, Any] = {"closed_at": max(body.closed_at, 1), "count": body.count}
        connection.execute(update(ALERTS).where(_A.alert_id == alert_id).values(**change))


def close_others(connection: Connection, open_ids: Collection[str], now_ms: int) -> list[str]:
    """Close those that are open here and nowhere else: Redis lost them. Their ids."""
    found = connection.scalars(select(_A.alert_id).where(_A.closed_at == 0)).all()
    lost = [alert_id for alert_id in found if alert_id not in open_ids]
    for some in chunks(lost, IDS_MAX):
        query = update(ALERTS).where(_A.alert_id.in_(some), _A.closed_at == 0)
        connection.execute(query.values(closed_at=now_ms))
    return lost


def forget_closed(connection: Connection, before_ms: int) -> None:
    """Delete those that were closed before."""
    connection.execute(delete(ALERTS).where(_A.closed_at > 0, _A.closed_at < before_ms))


def closed_alerts(
    connection: Connection,
    pool: str | None = None,
    *,
    before: str = "",
    limit: int = 100,
    pools: Sequence[str] | None = None,
) -> list[AlertRow]:
    """Closed alerts, those first that were opened last; `before`: after this id in that order.

    `pools`: only of these.
    """
    query = select(*(_A[name] for name in NAMES)).where(_A.closed_at > 0)
    if pool is not None:
        query = query.where(_A.pool_name == pool)
    if pools is not None:
        query = query.where(_A.pool_name.in_(pools))
    if before:
        query = query.where(_A.alert_id < before)
    rows = connection.execute(query.order_by(_A.alert_id.desc()).limit(limit))
    return [AlertRow(*row) for row in rows]


def _row(alert_id: str, body: AlertOpened) -> AlertRow:
    return AlertRow(
        alert_id,
        body.name,
        body.severity,
        body.subject,
        body.pool_name,
        body.count,
        msgspec.json.encode(body.newest).decode(),
        body.message,
        body.action,
        body.runbook,
        body.opened_at,
        0,
    )


def _row_of_end(alert_id: str, body: AlertClosed) -> AlertRow:
    """Of one whose `alert.opened` was not seen."""
    opened = AlertOpened(
        name=body.name,
        severity=body.severity,
        subject=body.subject,
        message="",
        action="",
        runbook="",
        opened_at=body.opened_at,
        pool_name=body.pool_name,
        count=body.count,
    )
    return _row(alert_id, opened)
