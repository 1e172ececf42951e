"""What alerts need of agents: how many wait, since when, and for what; and which still fail."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection, func, select

from eventstore.language.agents import Status
from projector.queries.agent_pages import names_in
from projector.queries.selects import agent
from projector.store.rows import AgentRow
from projector.store.tables import SERVING

OLDEST_READ: Final = 200
"""Among so many with the lowest ids is the one that has waited longest: an id has the time of its
request. Only agents that were put back into the queue can have waited for less than that."""
NEWEST: Final = 3
_A: Final = SERVING.agents.c


class WaitingAgents(Struct, frozen=True):
    """Those of one pool."""

    count: int
    oldest: AgentRow
    newest: list[tuple[str, int]]
    """Id and time in ms of the newest, newest first."""


def waiting(connection: Connection, pools: Sequence[str] | None = None) -> dict[str, WaitingAgents]:
    """Of some pools (None: of all) those in which agents wait."""
    names = select(names_in(_A.pool_name)) if pools is None else list(pools)
    query = (
        select(_A.pool_name, func.count())
        .where(_A.pool_name.in_(names), _A.status == Status.PENDING)
        .group_by(_A.pool_name)
    )
    counts = connection.execute(query).all()
    found = {pool: _of_pool(connection, pool, count) for pool, count in counts}
    return {pool: one for pool, one in found.items() if one is not None}


def _of_pool(connection: Connection, pool: str, count: int) -> WaitingAgents | None:
    of_pool = (_A.pool_name == pool, _A.status == Status.PENDING)
    query = select(_A.agent_id, _A.changed_at).where(*of_pool)
    first = connection.execute(query.order_by(_A.agent_id).limit(OLDEST_READ)).all()
    last = connection.execute(query.order_by(_A.agent_id.desc()).limit(NEWEST)).all()
    agent_id = min(first, key=lambda row: row[1])[0]
    row = agent(connection, agent_id, pool)
    return WaitingAgents(count, row, [(id_, ts) for id_, ts in last]) if row else None


def failures_of(connection: Connection, agent_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Status of these agents, and how often in a row each has failed."""
    query = select(_A.agent_id, _A.status, _A.failures_in_row)
    rows = connection.execute(query.where(_A.agent_id.in_(agent_ids)))
    return {agent_id: (status, failures) for agent_id, status, failures in rows}
