"""What `explain` answers, from the row of an agent, a worker or a pool and from the archive."""

from msgspec import Struct
from sqlalchemy import Connection

from eventstore.keys import CATALOGUE
from projector.explain import present
from projector.explain.explain import explain
from projector.explain.reading import end_of, read_story
from projector.history.history import History
from projector.history.positions import LogPosition, PointInTime
from projector.store.explanations import Explanation
from projector.store.rows import AgentRow, PoolRow, WorkerRow


class Subject(Struct, frozen=True):
    """What is explained. `total`: how many events it has, if that is known."""

    kind: str
    name: str
    pool_name: str
    total: int | None = None


async def explain_agent(
    history: History, row: AgentRow, now_ms: int, *, limit: int, point: PointInTime | None = None
) -> Explanation:
    """Why an agent is as it is. `point`: as of that point in time. Raises as the history does."""
    subject = Subject("agent", row.agent_id, row.pool_name, row.version)
    return await _explain(history, subject, present.agent_now(row, now_ms), limit, point)


async def explain_worker(
    history: History, row: WorkerRow, now_ms: int, *, limit: int, point: PointInTime | None = None
) -> Explanation:
    """As `explain_agent`, a worker."""
    subject = Subject("worker", row.worker_id, row.pool_name, row.version)
    return await _explain(history, subject, present.worker_now(row, now_ms), limit, point)


async def explain_pool(
    history: History,
    name: str,
    row: PoolRow | None,
    *,
    limit: int,
    point: PointInTime | None = None,
) -> Explanation:
    """As `explain_agent`, a pool. `row` None: it was deleted, or there never was one."""
    now = "deleted" if row is None else present.pool_now(row)
    return await _explain(history, Subject("pool", name, name), now, limit, point)


async def _explain(
    history: History, subject: Subject, now: str, limit: int, point: PointInTime | None
) -> Explanation:
    def work(connection: Connection, _: float) -> Explanation:
        def position(log: str) -> LogPosition:
            return end_of(connection, log) if point is None else point.position_of(log)

        story = read_story(
            connection,
            subject.name,
            position(subject.pool_name),
            position(CATALOGUE) if subject.kind == "pool" else None,
            limit=limit,
            total=subject.total,
        )
        return Explanation(
            kind=subject.kind,
            name=subject.name,
            pool_name=subject.pool_name,
            now=now,
            lines=explain(story),
            left_out=story.left_out,
        )

    return await history.query(work)
