"""How a spawn is answered: by what became of its agent."""

from typing import Final

from aiohttp import web

from eventstore.language.agents import Agent, Status
from gateway.wire.problems import Kind, Problem
from gateway.wire.responses import json_response
from projector.queries.views import AgentRow

START_FAILED: Final = "start_failed"


def start_finished(agent: Agent) -> bool:
    """Whether the wait for its start is over."""
    if agent.status is Status.RESTARTING:
        return agent.reason == START_FAILED
    return agent.status not in {Status.PENDING, Status.STARTING}


def spawn_response(row: AgentRow, headers: dict[str, str]) -> web.Response:
    """200 if it runs or ran, 202 if it waits; raises `Problem` if it failed."""
    match row.status:
        case Status.FAILED:
            raise _start_failed(row, headers, "it will not be tried again")
        case Status.RESTARTING if row.reason == START_FAILED:
            raise _start_failed(row, headers, "it will be tried again")
        case Status.TERMINATED if row.started_at == 0:
            detail = f"the agent ended before it ran: {row.reason}"
            raise Problem(
                Kind.AGENT_WITHDRAWN, detail, headers=headers, agent_id=row.agent_id, agent=row
            )
        case Status.RUNNING | Status.STOPPING | Status.TERMINATED:
            return json_response(row, headers=headers)
        case _:
            return json_response(row, status=202, headers=headers)


def _start_failed(row: AgentRow, headers: dict[str, str], retry_note: str) -> Problem:
    error = row.last_error
    what = f"{error.type}: {error.message}" if error else row.reason
    return Problem(
        Kind.AGENT_START_FAILED,
        f"{what}; {retry_note}",
        headers=headers,
        agent_id=row.agent_id,
        error=error,
        agent=row,
    )
