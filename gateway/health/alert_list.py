"""The alerts over HTTP: those that apply now, and on request those that are over."""

from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct

from gateway.alerts.alerts import Alert
from gateway.backend.call import Call
from gateway.backend.read_state import ReadState
from gateway.health.alerts import current_alerts
from gateway.wire.answer import Answer
from gateway.wire.operating_requests import AlertQuery
from gateway.wire.problems import Kind, Problem
from gateway.wire.responses import decode_cursor, encode_cursor
from projector.queries.views import AlertRow


class AlertList(Struct, frozen=True):
    """The critical ones first. `next` is the address of the next page, if there is one."""

    alerts: Sequence[Alert]
    next: str | None = None


async def alerts(call: Call, query: AlertQuery) -> Answer:
    """What needs attention; also while the database is unreachable, unless closed ones are asked
    for."""
    found: list[Alert] = []
    if query.cursor is not None and not query.include_closed:
        detail = "a cursor is of the closed alerts: add include_closed=true"
        raise Problem(Kind.INVALID_REQUEST, detail, field="cursor")
    if query.cursor is None:
        found = [one for one in await _current(call) if query.pool_name in (None, one.pool_name)]
    if query.include_closed:
        closed, following = await _closed_page(call, query)
        found += closed
    else:
        following = None
    if not found and query.cursor is None:
        await call.backend.explain_empty(query.pool_name)
    return Answer(AlertList(found, following))


async def _closed_page(call: Call, query: AlertQuery) -> tuple[list[Alert], str | None]:
    """Some of those that are over, and the address of the next page."""
    before = decode_cursor(query.cursor)
    async with call.backend.read_views() as views:
        rows = await views.closed_alerts(
            query.pool_name, before=before, limit=query.limit + 1, pools=call.own_pools
        )
    shown = rows[: query.limit]
    if len(rows) == len(shown):
        return [*map(_closed, shown)], None
    cursor = encode_cursor(shown[-1].alert_id)
    return [*map(_closed, shown)], str(call.request.rel_url.update_query(cursor=cursor))


async def _current(call: Call) -> list[Alert]:
    """Those that apply now, found out once for all who ask at the same time."""

    async def find() -> tuple[list[Alert], ReadState]:
        with suppress(Problem):  # of which there is an alert
            async with call.backend.read_views() as views:
                await call.backend.catch_up(views, call.read_state, call.logs_of(None))
        return await current_alerts(call.backend), call.read_state

    key = alerts, call.grant, tuple(call.read_state.requested.items())
    found, call.read_state = await call.backend.shared_answers.ask(key, find)
    return own_alerts(call, found)


def own_alerts(call: Call, found: Sequence[Alert]) -> list[Alert]:
    """Those of its caller: who is limited to pools sees none about all of the service."""
    return [alert for alert in found if call.grant.has_pool(alert.pool_name)]


def _closed(row: AlertRow) -> Alert:
    return Alert(
        name=row.name,
        severity=row.severity,
        subject=row.subject,
        message=row.message,
        action=row.action,
        since=row.opened_at,
        pool_name=row.pool_name,
        count=row.count,
        newest=row.cases,
        runbook=row.runbook,
        alert_id=row.alert_id,
        closed_at=row.closed_at,
    )
