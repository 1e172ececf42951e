"""What was used in a span, and the history of a pool for charts."""

from collections.abc import Callable, Collection
from datetime import UTC, datetime

from eventstore.keys import CATALOGUE
from gateway.backend.call import Call
from gateway.resources import as_of
from gateway.wire.answer import Answer
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import PoolName
from gateway.wire.usage_requests import HistoryQuery, SpanQuery, UsageQuery
from projector.queries import views as queries
from projector.queries.views import ArchiveIncomplete, Grouping, Span, UsageFilter, Views

HISTORY_MS = 6 * 3_600_000
_WITHOUT_EVENTS = (
    "a time at the start of a minute needs no events; of an hour, if it is older than a week; of a"
    " day (UTC), if it is older than 400 days"
)


async def get_usage(call: Call, query: UsageQuery) -> Answer:
    """Slot-seconds, worker-seconds, agents, waiting, restarts and failures of a span."""
    wanted, by = _wanted(call, query), _grouping(query.by)
    pools = call.logs_of(query.pool_name)
    async with call.backend.read_history() as views:
        span = await _span(call, views, query, pools, _month_start)
        try:
            report = await queries.usage(
                views.history, wanted, by, span, period=query.per, limit=query.limit
            )
        except queries.TooManyParts as error:
            raise Problem(Kind.INVALID_REQUEST, f"per: {error}", field="per") from error
        except ArchiveIncomplete as error:
            raise _incomplete(error) from error
    if not report.rows:
        await call.backend.explain_empty(query.pool_name)
    return Answer(report)


async def get_pool_history(call: Call, pool_name: PoolName, query: HistoryQuery) -> Answer:
    """Agents, slots, pending, arrivals, ends and failures of a pool, by minute, hour or day."""
    step = None if query.step is None else query.step.value
    async with call.backend.read_history() as views:
        span = await _span(call, views, query, [pool_name], lambda now: now - HISTORY_MS)
        try:
            found = await queries.pool_history(views.history, pool_name, span, step)
        except queries.HistoryRefused as error:
            raise Problem(Kind.INVALID_REQUEST, f"step: {error}", field="step") from error
        except ArchiveIncomplete as error:
            raise _incomplete(error) from error
    if not any(point.agents or point.arrivals or point.workers for point in found.points):
        await call.backend.explain_empty(pool_name)
    return Answer(found)


def _incomplete(error: ArchiveIncomplete) -> Problem:
    return Problem(Kind.ARCHIVE_INCOMPLETE, f"{error}; {_WITHOUT_EVENTS}")


def _wanted(call: Call, query: UsageQuery) -> UsageFilter:
    name, _, value = (query.label or "").partition(":")
    return UsageFilter(
        pool_name=query.pool_name,
        role_type=query.role_type,
        project_id=query.project_id,
        label=(name, value) if query.label else None,
        **call.own_agents,
    )


def _grouping(names: Collection[str]) -> Grouping:
    labels = [name.partition(":")[2] for name in names if name.startswith("label:")]
    if len(set(labels)) > 1:
        detail = f"by: one label at a time, not {' and '.join(sorted(set(labels)))}"
        raise Problem(Kind.INVALID_REQUEST, detail, field="by")
    return Grouping(
        pool="pool" in names,
        role="role" in names,
        project="project" in names,
        label=labels[0] if labels else None,
    )


async def _span(
    call: Call,
    views: Views,
    query: SpanQuery,
    pools: Collection[str] | None,
    default: Callable[[int], int],
) -> Span:
    """The span, once the views have all that happened in it. Raises `Problem`."""
    names = [CATALOGUE, *(call.backend.known_pools() if pools is None else pools)]
    now = max(map(call.backend.log.now_ms, names))
    until = now if query.until is None else as_of.parse_milliseconds(query.until, "until")
    since = (
        default(min(until, now))
        if query.since is None
        else as_of.parse_milliseconds(query.since, "since")
    )
    if query.until is not None and since > until:
        detail = "since: it is after until"
        raise Problem(Kind.INVALID_REQUEST, detail, field="since")
    until = min(until, now)
    if since > until:
        raise Problem(Kind.INVALID_REQUEST, "since: it has not come yet", field="since")
    await as_of.wait_until(call, views, until, names)
    return Span(since, until, is_open=query.until is None)


def _month_start(now_ms: int) -> int:
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return int(start.timestamp()) * 1000
