"""One agent as it is answered: from the views, or from the log where that is newer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from eventstore.connection.calls import execute_many, translated_errors
from eventstore.errors import LogError
from eventstore.language.agents import Agent, Status
from eventstore.language.placement_policy import Cap
from eventstore.language.workers import is_role_problem
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.following.waiters import Watch
from gateway.wire.problems import Kind, Problem
from projector.queries.views import WAITS_FOR_CLAIM, WAITS_FOR_ISOLATION, AgentRow

LOOK_SECONDS: Final = 0.5
"""How long a command waits for the database, which it does not depend on."""


async def from_views(
    backend: Backend, call: Call, agent_id: str, pool: str | None = None
) -> AgentRow:
    """An agent as the views have it; waits for those of its pool only. Raises `Problem`."""
    async with backend.read_views() as views:
        if pool is None:
            row = await views.agent(agent_id)
            pool = row.pool_name if row else None
        if pool is None:
            with suppress(LogError):
                pool = await _pool_in_log(backend, agent_id, refresh=False)
        pools = call.read_state.requested if pool is None else [pool]
        await backend.catch_up(views, call.read_state, pools)
        row = await views.agent(agent_id, pool)
    if row is None:
        raise not_found(agent_id, pool)
    return (await with_blocked(backend, [row]))[0]


async def with_blocked(backend: Backend, rows: Sequence[AgentRow]) -> list[AgentRow]:
    """Rows of the present; those that wait for a worker that cannot be started say why.

    So do those that a cap holds back.
    """
    pools = {row.pool_name for row in rows if row.status == Status.PENDING}
    if not pools or backend.disconnected:
        return list(rows)
    try:
        held_up = await backend.log.held_up(pools)
    except LogError:
        return list(rows)
    return [
        _with_reason(row, *held_up[row.pool_name])
        if row.status == Status.PENDING and row.pool_name in held_up
        else row
        for row in rows
    ]


def _with_reason(row: AgentRow, blocked: str, caps: Sequence[Cap]) -> AgentRow:
    reason, isolated = row.reason, row.reason.startswith(WAITS_FOR_ISOLATION)
    cap = next((one for one in caps if one.holds(row.project_id, row.labels)), None)
    if cap is not None and not isolated:
        requeued = reason[reason.rfind(" (") :] if reason.endswith(")") else ""
        return replace(row, reason=cap.reason + requeued)
    if blocked and (isolated or reason.startswith(WAITS_FOR_CLAIM)):
        return replace(row, reason=_blocked_reason(reason, blocked))
    return row


async def from_log(backend: Backend, call: Call, agent: Agent) -> AgentRow:
    """An agent as the log has it; one that is pending, with what the views know it waits for."""
    row = AgentRow.of(agent, backend.log.high_water_mark(agent.pool_name)[0])
    backend.report_position(call.read_state, agent.pool_name)
    stale = backend.disconnected
    if agent.status is Status.PENDING:
        try:
            async with backend.read_views(LOOK_SECONDS) as views:
                view_row = await views.agent(agent.agent_id, agent.pool_name)
        except Problem:
            view_row = None
        if view_row is not None and view_row.version >= agent.version:
            (row,) = await with_blocked(backend, [view_row])
        else:
            stale = True
    call.read_state.stale |= stale
    return row


async def follow(
    call: Call,
    watch: Watch,
    agent: Agent,
    deadline: float,
    *,
    until: Callable[[Agent], bool],
) -> Agent:
    """An agent once a command that was written has had its effect, or at the `deadline`."""
    backend = call.backend
    while not until(agent) and (event := await watch.next(deadline)):
        backend.mark_observed(call.read_state, agent.pool_name, event.seq)
        try:
            agent = await backend.log.agent(agent.pool_name, agent.agent_id) or agent
        except LogError:  # only the outcome cannot be read
            break
    return agent


def _blocked_reason(reason: str, blocked: str) -> str:
    """Where no worker can run its role, that is what an isolated agent waits for, too."""
    isolated = reason.startswith(WAITS_FOR_ISOLATION)
    if isolated and not is_role_problem(blocked):
        return reason
    return reason.replace(WAITS_FOR_ISOLATION if isolated else WAITS_FOR_CLAIM, blocked, 1)


async def pool_of(backend: Backend, agent_id: str) -> str:
    """The pool of an agent: from the views, however old they are, else from the log.

    An agent that is in no log may be archived: if the views cannot be read, their `Problem` is
    raised.
    """
    problem = not_found(agent_id)
    try:
        async with backend.read_views(LOOK_SECONDS) as views:
            if row := await views.agent(agent_id):
                return row.pool_name
    except Problem as views_problem:
        problem = views_problem
    if pool := await _pool_in_log(backend, agent_id, refresh=True):
        return pool
    raise problem


async def owner_of(backend: Backend, agent_id: str, pool: str | None) -> tuple[str, str] | None:
    """Pool and project of an agent, `pool` if it is named; None if there is no such agent.

    Raises `Problem` if the views cannot be read and the log does not have it, and `LogError`.
    """
    problem: Problem | None = None
    try:
        async with backend.read_views(LOOK_SECONDS) as views:
            if row := await views.agent(agent_id, pool):
                return row.pool_name, row.project_id
    except Problem as views_problem:
        problem = views_problem
    pool = pool or await _pool_in_log(backend, agent_id, refresh=True)
    agent = await backend.log.agent(pool, agent_id) if pool else None
    if agent is None and problem is not None:
        raise problem
    return None if agent is None else (agent.pool_name, agent.project_id)


async def projects_of(backend: Backend, agents: Mapping[str, str]) -> dict[str, str]:
    """The projects of some agents, by their ids; `agents` has their pools.

    An agent that is neither in Redis nor in the views is left out. Raises `LogUnreachable`, and
    `Problem` if the views cannot be read.
    """
    keys = [backend.log.keys.agent(pool, agent_id) for agent_id, pool in agents.items()]
    with translated_errors("agents cannot be read"):
        asked = [("HGET", key, "project_id") for key in keys]
        replies = await execute_many(backend.log.client, asked)
    pairs = zip(agents, replies, strict=True)
    found = {agent_id: reply.decode() for agent_id, reply in pairs if reply}
    if missing := sorted(agents.keys() - found):
        async with backend.read_views() as views:
            found |= await views.projects_of(missing)
    return found


async def _pool_in_log(backend: Backend, agent_id: str, *, refresh: bool) -> str | None:
    """The pool whose log has the agent: all that live are asked at once, then those deleted.

    `refresh`: also pools that this gateway does not know of yet. Raises `LogError`.
    """
    searched: set[str] = set()
    for again in (False, True) if refresh else (False,):
        if again:
            await backend.refresh_known_pools()
        for pools in (set(backend.pools()), set(backend.known_pools())):
            if pool := await backend.log.pool_of(agent_id, sorted(pools - searched)):
                return pool
            searched |= pools
    return None


def not_found(agent_id: str, pool: str | None = None) -> Problem:
    detail = f"there is no agent {agent_id}" + (f" in pool {pool!r}" if pool else "")
    return Problem(Kind.AGENT_NOT_FOUND, detail, field="agent_id")
