"""Which agents a page has: found through indexes alone, however many agents have ended.

Agents that live or have failed are few: they are found by pool and status, and sorted. Terminated
ones are read in the order of their ids: through the index of their project or pool, which has the
ids in that order, or the primary key.
"""

import re
from collections.abc import Iterator
from heapq import merge
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from sqlalchemy import CTE, ColumnElement, Connection, Select, func, or_, select, union_all

from eventstore.language.agents import TERMINAL, Status
from projector.store.rows import SEARCHED, AgentFilter
from projector.store.tables import SERVING

LIVE_STATUSES: Final = tuple(status.value for status in Status if status not in TERMINAL)
ALL_STATUSES: Final = frozenset(status.value for status in Status)
TERMINATED: Final = Status.TERMINATED.value

_A: Final = SERVING.agents.c


def page_ids(connection: Connection, wanted: AgentFilter, after: str, limit: int) -> list[str]:
    """Ids of the first agents after one that match, in order."""
    found = [_page_ids(connection, part, after, limit) for part in _parts(wanted)]
    return list(islice(merge(*found), limit))


def _parts(wanted: AgentFilter) -> Iterator[AgentFilter]:
    """Filters that together select the same, each with one project or pool where there are some."""
    pool, pools, project, projects = (
        wanted.pool_name, wanted.pools, wanted.project_id, wanted.projects
    )  # fmt: skip
    if project is None and projects is not None:
        for name in projects:
            yield from _parts(replace(wanted, project_id=name))
    elif pool is None and pools is not None and project is None:
        for name in pools:
            yield replace(wanted, pool_name=name)
    elif (pools is None or pool is None or pool in pools) and (
        projects is None or project in projects
    ):
        yield wanted


def _page_ids(connection: Connection, wanted: AgentFilter, after: str, limit: int) -> list[str]:
    arms = [
        select(arm.where(_A.agent_id > after).order_by(_A.agent_id).limit(limit).subquery())
        for arm in _arms(wanted, _conditions(connection, wanted))
    ]
    if not arms:
        return []
    query = union_all(*arms) if len(arms) > 1 else arms[0]
    return list(connection.execute(query.order_by("agent_id").limit(limit)).scalars())


def _arms(wanted: AgentFilter, others: list[ColumnElement[bool]]) -> Iterator[Select[Any]]:
    """Queries that together find all of them, each through one index."""
    ids, statuses = select(_A.agent_id).where(*others), _statuses(wanted)
    pool, project, process = wanted.pool_name, wanted.project_id, wanted.process_id
    of_pool, of_project = _A.pool_name == pool, _A.project_id == project
    if process is not None:
        ids = ids.where(_A.process_id == process, unindexed(_A.status).in_(statuses))
        ids = ids if pool is None else ids.where(unindexed(_A.pool_name) == pool)
        yield ids if project is None else ids.where(unindexed(_A.project_id) == project)
        return
    if statuses == ALL_STATUSES and pool is None and project is None:
        yield ids
        return
    if few := statuses - {TERMINATED}:
        found = ids if project is None else ids.where(unindexed(_A.project_id) == project)
        in_pools = _A.pool_name.in_(select(names_in(_A.pool_name))) if pool is None else of_pool
        yield found.where(in_pools, _A.status.in_(sorted(few)))
    if TERMINATED in statuses and project is not None:
        found = ids.where(of_project, unindexed(_A.status) == TERMINATED)
        yield found if pool is None else found.where(unindexed(_A.pool_name) == pool)
    elif TERMINATED in statuses:
        found = ids.where(_A.status == TERMINATED)
        yield found if pool is None else found.where(of_pool)


def _statuses(wanted: AgentFilter) -> frozenset[str]:
    statuses = ALL_STATUSES.intersection(wanted.status or ALL_STATUSES)
    if wanted.ended is None:
        return statuses
    return statuses.difference(LIVE_STATUSES) if wanted.ended else statuses & {*LIVE_STATUSES}


def _conditions(connection: Connection, wanted: AgentFilter) -> list[ColumnElement[bool]]:
    """Those for which there is no index."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.pools is not None and wanted.pool_name is None:
        conditions.append(unindexed(_A.pool_name).in_(wanted.pools))
    if wanted.role_type is not None:
        conditions.append(_A.role_type == wanted.role_type)
    if wanted.label is not None:
        # A compact object of strings: the pair is in it exactly as it is encoded on its own.
        pair = msgspec.json.encode(dict([wanted.label]))[1:-1].decode()
        find = func.instr if connection.dialect.name == "sqlite" else func.strpos
        conditions.append(find(_A.labels, pair) > 0)
    if wanted.text is not None:
        part = f"%{_escaped(wanted.text.lower())}%"
        columns = (func.lower(_A[name]) for name in SEARCHED)
        conditions.append(or_(*(column.like(part, escape="\\") for column in columns)))
    return conditions


def _escaped(text: str) -> str:
    """A text in which no character of a pattern of LIKE has a meaning."""
    return re.sub(r"([%_\\])", r"\\\1", text)


def unindexed(column: ColumnElement[str]) -> ColumnElement[str]:
    """Not to be found by the index that begins with it: SQLite, without statistics, would."""
    return column.concat("")


def names_in(column: ColumnElement[str]) -> CTE:
    """All values of an indexed column, each by one step in its index, however many rows it has."""
    found = select(func.min(column).label("name")).cte("found", recursive=True)
    later = select(func.min(column)).where(column > found.c.name).scalar_subquery()
    return found.union_all(select(later).where(found.c.name.is_not(None)))
