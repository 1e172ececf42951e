"""The SELECTs of the queries, and the answers made from their rows.

Each is a plain function of a connection, so that a query runs in one transaction and one thread
hop, whatever it selects. Only the SQL view `pool_capacity` counts capacity.
"""

import re
from collections.abc import Iterable, Sequence
from heapq import merge, nlargest
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import UNSET
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Connection, Select, func, literal, select

from eventstore.language.agents import Agent, Status
from eventstore.language.tokens import Token, subject_of
from eventstore.language.workers import ALIVE, WorkerStatus
from projector.intake.archive import generation_ranges
from projector.queries.agent_pages import LIVE_STATUSES, names_in, page_ids, unindexed
from projector.store import rows
from projector.store.capacity import PoolCapacity
from projector.store.mapping import agent_of, chunks, pool_of, token_of
from projector.store.tables import (
    AGENT_LIVE,
    CAPACITY,
    EVENTS,
    HAS_STATE,
    ID_PART_MIN,
    SERVING,
    WORKER_LIVE,
    id_end,
    run,
)

ID_PART: Final = re.compile(rf"[0-9a-f-]{{{ID_PART_MIN},36}}")
ROWS_READ: Final = 250
INPUTS_READ: Final = 16
"""How many rows are read at a time, and how many with inputs, which may have 64 KiB each."""
_NEWEST: Final = (
    f"SELECT {', '.join(column.name for column in EVENTS.columns)} FROM {{}}events"
    " WHERE type = ? AND ts >= ? ORDER BY ts DESC, seq DESC LIMIT ?"
)
_NO_INPUT: Final = literal("{}").label("input")
LIVE_WORKER_STATUSES: Final = (WorkerStatus.REQUESTED.value, *sorted(ALIVE))


def agents(
    connection: Connection,
    wanted: rows.AgentFilter,
    *,
    after: str = "",
    limit: int = 100,
    with_input: bool = True,
) -> list[rows.AgentRow]:
    """Agents in the order of their ids, after the id `after` (keyset paging).

    Fewer than `limit` if they have `READ_BYTES`. `with_input`: with what clients gave them.
    """
    agent_id = SERVING.agents.c.agent_id
    found: list[rows.AgentRow] = []
    size = 0
    ids = page_ids(connection, wanted, after, limit)
    for some in chunks(ids, INPUTS_READ if with_input else ROWS_READ):
        query = _agents(with_input=with_input).where(agent_id.in_(some)).order_by(agent_id)
        if wanted.pool_name is not None:
            query = query.where(SERVING.agents.c.pool_name == wanted.pool_name)
        read = _agent_rows(connection, query)
        found += read if with_input else [replace(row, input=UNSET) for row in read]
        size += sum(len(msgspec.json.encode(row)) for row in read)
        if size >= rows.READ_BYTES:
            break
    return found


def agent(connection: Connection, agent_id: str, pool: str | None = None) -> rows.AgentRow | None:
    """One agent, ended or not."""
    a = SERVING.agents
    query = _agents().where(a.c.agent_id == agent_id)
    if pool is not None:
        query = query.where(a.c.pool_name == pool)
    found = _agent_rows(connection, query.limit(1))
    return found[0] if found else None


def find_ids(
    connection: Connection,
    kind: str,
    part: str,
    *,
    limit: int,
    pools: Sequence[str] | None = None,
    projects: Sequence[str] | None = None,
) -> list[tuple[str, str, str]]:
    """Id, pool and status of agents or workers whose id is, begins or ends with `part`.

    `pools`: only in these; `projects`: only agents of these.
    """
    if not ID_PART.fullmatch(part):
        return []
    table, column = (
        (SERVING.agents, SERVING.agents.c.agent_id)
        if kind == "agent"
        else (SERVING.workers, SERVING.workers.c.worker_id)
    )
    query = select(column, table.c.pool_name, table.c.status).order_by(column).limit(limit)
    if pools is not None:
        query = query.where(unindexed(table.c.pool_name).in_(pools))
    if projects is not None and kind == "agent":
        query = query.where(unindexed(table.c.project_id).in_(projects))
    # The ranges are for the indexes: they hold in every collation, but may be too wide.
    begins = query.where(column >= part, column <= f"{part}g", column.startswith(part))
    ends = query.where(id_end(column) == part[-ID_PART_MIN:], column.endswith(part))
    rows = [tuple(row) for one in (begins, ends) for row in connection.execute(one)]
    return list(dict.fromkeys(rows))[:limit]


def has_project(
    connection: Connection, project_id: str, *, pools: Sequence[str] | None = None
) -> bool:
    """Whether any agent, ended or not, is or was of the project; `pools`: in one of these."""
    a = SERVING.agents
    query = select(a.c.project_id).where(a.c.project_id == project_id).limit(1)
    if pools is not None:
        query = query.where(unindexed(a.c.pool_name).in_(pools))
    return connection.execute(query).first() is not None


def projects(connection: Connection, *, limit: int = 10_000) -> list[str]:
    """The projects of all agents; each is one step in an index, however many agents it has."""
    name = names_in(SERVING.agents.c.project_id).c.name
    return list(connection.execute(select(name).where(name.is_not(None)).limit(limit)).scalars())


def projects_of(connection: Connection, agent_ids: Sequence[str]) -> dict[str, str]:
    """The projects of these agents, as far as the views have them, by their ids."""
    a, found = SERVING.agents, dict[str, str]()
    for some in chunks(agent_ids, ROWS_READ):
        query = select(a.c.agent_id, a.c.project_id).where(a.c.agent_id.in_(some))
        found |= {row.agent_id: row.project_id for row in connection.execute(query)}
    return found


def count_agents(connection: Connection) -> dict[str, dict[str, int]]:
    """Numbers of agents by pool and status, without ended ones."""
    a = SERVING.agents
    query = (
        select(a.c.pool_name, a.c.status, func.count())
        .where(a.c.pool_name.in_(select(names_in(a.c.pool_name))))
        .where(a.c.status.in_(LIVE_STATUSES))
        .group_by(a.c.pool_name, a.c.status)
    )
    counts: dict[str, dict[str, int]] = {}
    for pool, status, count in connection.execute(query):
        counts.setdefault(pool, {})[status] = count
    return counts


def _agents(*, with_input: bool = True) -> Select[Any]:
    """Agents, with their last heartbeat where it is of their current worker."""
    a, live = SERVING.agents, AGENT_LIVE
    same = (
        (live.c.agent_id == a.c.agent_id)
        & (live.c.pool_name == a.c.pool_name)
        & (live.c.process_id == a.c.process_id)
    )
    columns = [c if with_input or c.name != "input" else _NO_INPUT for c in a.c]
    query = select(*columns, live.c.activity, live.c.last_heartbeat)
    return query.join_from(a, live, same, isouter=True)


def _agent_rows(connection: Connection, query: Select[Any]) -> list[rows.AgentRow]:
    found = connection.execute(query).mappings().all()
    pending = {row["pool_name"] for row in found if row["status"] == Status.PENDING}
    capacities = _capacities(connection, pending) if pending else {}
    return [rows.agent_row(row, capacities.get(row["pool_name"], PoolCapacity())) for row in found]


def pools(
    connection: Connection,
    *,
    after: str = "",
    limit: int | None = None,
    names: Sequence[str] | None = None,
) -> list[rows.PoolRow]:
    """Pools that were not deleted, in the order of their names; `names`: only these."""
    name = SERVING.pools.c.pool_name
    query = _pools().where(name > after).order_by(name).limit(limit)
    if names is not None:
        query = query.where(name.in_(names))
    return [rows.pool_row(row) for row in connection.execute(query).mappings()]


def pool(connection: Connection, name: str) -> rows.PoolRow | None:
    """A pool that was not deleted."""
    query = _pools().where(SERVING.pools.c.pool_name == name)
    row = connection.execute(query).mappings().first()
    return rows.pool_row(row) if row else None


def _pools() -> Select[Any]:
    p, c = SERVING.pools, CAPACITY
    counts = [column for column in c.c if column.name != "pool_name"]
    return select(p, *counts).join_from(p, c, p.c.pool_name == c.c.pool_name)


def _capacities(connection: Connection, names: Iterable[str]) -> dict[str, PoolCapacity]:
    p, c, w = SERVING.pools, CAPACITY, SERVING.workers
    of_pool = (w.c.pool_name == p.c.pool_name) & w.c.status.in_(LIVE_WORKER_STATUSES)
    isolated = select(func.count()).where(of_pool, w.c.alone != "").scalar_subquery()
    cordoned = select(func.count()).where(of_pool, w.c.cordoned != "").scalar_subquery()
    counts = (c.c.available_capacity, c.c.process_count, c.c.ordered_worker_processes)
    query = (
        select(p, *counts, isolated.label("alone_workers"), cordoned.label("cordoned_workers"))
        .join_from(p, c, p.c.pool_name == c.c.pool_name)
        .where(p.c.pool_name.in_(sorted(names)))
    )
    return {
        row["pool_name"]: PoolCapacity(
            free_slots=int(row["available_capacity"]),
            workers=row["process_count"],
            ordered_workers=row["ordered_worker_processes"],
            max_workers=pool_of(row).config.max_workers,
            isolated_workers=row["alone_workers"],
            cordoned_workers=row["cordoned_workers"],
        )
        for row in connection.execute(query).mappings()
    }


def workers(
    connection: Connection,
    pool: str | None = None,
    *,
    ended: bool = False,
    after: str = "",
    limit: int | None = None,
    pools: Sequence[str] | None = None,
) -> list[rows.WorkerRow]:
    """Workers in the order of their ids; `ended`: stopped and lost ones too.

    `pools`: only of these.
    """
    if pool is None and pools is not None:
        of_pools = [
            workers(connection, name, ended=ended, after=after, limit=limit) for name in pools
        ]
        found = merge(*of_pools, key=lambda row: row.worker_id)
        return list(islice(found, limit))
    w = SERVING.workers
    worker_id: ColumnElement[str] = w.c.worker_id
    query = _workers()
    if pool is not None:
        query = query.where(w.c.pool_name == pool)
    elif not ended:
        query = query.where(w.c.pool_name.in_(select(names_in(w.c.pool_name))))
    if not ended:
        worker_id = unindexed(worker_id)
        query = query.where(w.c.status.in_(LIVE_WORKER_STATUSES))
    query = query.where(worker_id > after).order_by(worker_id).limit(limit)
    return [rows.worker_row(row) for row in connection.execute(query).mappings()]


def worker(connection: Connection, worker_id: str) -> rows.WorkerRow | None:
    """One worker, ended or not."""
    query = _workers().where(SERVING.workers.c.worker_id == worker_id).limit(1)
    row = connection.execute(query).mappings().first()
    return rows.worker_row(row) if row else None


def _workers() -> Select[Any]:
    """Workers, with their last heartbeat."""
    w, live = SERVING.workers, WORKER_LIVE
    same = (live.c.worker_id == w.c.worker_id) & (live.c.pool_name == w.c.pool_name)
    columns = (live.c.last_heartbeat, live.c.loop_lag_ms, live.c.memory_bytes)
    return select(w, *columns).join_from(w, live, same, isouter=True)


def hosts(connection: Connection) -> list[rows.HostRow]:
    """Hosts in the order of their ids, those that left too."""
    h = SERVING.hosts
    return [
        rows.host_row(row) for row in connection.execute(select(h).order_by(h.c.host)).mappings()
    ]


def tokens(connection: Connection) -> dict[str, Token]:
    """The tokens that were not revoked, by the subject of their events."""
    found = map(token_of, connection.execute(select(SERVING.tokens)).mappings())
    return {subject_of(token.name): token for token in found}


def events(
    connection: Connection,
    pool: str,
    *,
    after_seq: int = 0,
    subject: str | None = None,
    types: Sequence[str] = (),
    limit: int = 1000,
) -> list[rows.EventRow]:
    """Archived events of a pool, in order."""
    found: list[rows.EventRow] = []
    for part in generation_ranges(connection, pool):
        query = part.rows(first=after_seq + 1).order_by(EVENTS.c.seq)
        if subject is not None:
            query = query.where(EVENTS.c.subject == subject)
        if types:
            query = query.where(EVENTS.c.type.in_(types))
        rows_left = query.limit(limit - len(found))
        found += (rows.EventRow(*row) for row in connection.execute(rows_left))
    return found


def agent_state(connection: Connection, pool: str, agent_id: str) -> Agent | None:
    """An agent as the fold of its events: its hash can be rebuilt from that."""
    a = SERVING.agents
    query = select(a).where(a.c.pool_name == pool, a.c.agent_id == agent_id)
    row = connection.execute(query).mappings().first()
    return agent_of(row) if row else None


def lost_states(connection: Connection, *, limit: int = 100) -> list[Agent]:
    """Agents that wait because the state that they saved last was found nowhere."""
    a = SERVING.agents
    query = select(a).where(HAS_STATE, a.c.state_lost.is_(True)).order_by(a.c.agent_id)
    return [agent_of(row) for row in connection.execute(query.limit(limit)).mappings()]


def recent(
    connection: Connection,
    types: Sequence[str],
    *,
    since_ms: int,
    limit: int = 100,
    pools: Sequence[str] | None = None,
) -> list[rows.EventRow]:
    """The newest events of some types over all pools, or some, newest first (for alerts).

    One type after the other, each back to the last one that is among the newest so far.
    """
    newest: list[rows.EventRow] = []
    some = "" if pools is None else f" AND pool IN ({', '.join('?' * len(pools)) or 'NULL'})"
    newest_of = _NEWEST.replace(" ORDER", f"{some} ORDER")
    for kind in types:
        if len(newest) == limit:
            since_ms = max(since_ms, newest[-1].ts)
        found = run(connection, newest_of, kind, since_ms, *(pools or ()), limit)
        of_type = (rows.EventRow(*row) for row in found)
        newest = nlargest(limit, [*newest, *of_type], key=lambda event: (event.ts, event.seq))
    return newest
