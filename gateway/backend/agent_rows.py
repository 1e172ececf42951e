"""An agent as the log tells it, in the shape in which the views do."""

import msgspec

from eventstore.language.agents import Agent, Status
from projector.queries.views import AgentRow

WAITS_FOR_CLAIM = "waiting to be claimed"
WAITS_FOR_ISOLATION = "needs a worker of its own"


def agent_row_from_log(agent: Agent, generation: int) -> AgentRow:
    """What is known from folding alone: nothing that heartbeats tell."""
    unclaimed = agent.status is Status.PENDING and not agent.reason
    waiting_reason = WAITS_FOR_ISOLATION if agent.alone else WAITS_FOR_CLAIM
    return AgentRow(
        agent_id=agent.agent_id,
        pool_name=agent.pool_name,
        role_type=agent.role_type,
        project_id=agent.project_id,
        status=agent.status.value,
        reason=waiting_reason if unclaimed else agent.reason,
        incarnation=agent.incarnation,
        version=agent.version,
        process_id=agent.worker_id,
        epoch=agent.epoch,
        stop=agent.stop.value,
        heartbeat_interval=agent.heartbeat_interval,
        max_idle_time=agent.max_idle_time,
        labels=agent.labels,
        input=msgspec.json.decode(agent.input, type=dict[str, object]),
        last_error=agent.last_error,
        failures=len(agent.failures),
        losses=len(agent.losses),
        alone=agent.alone,
        created_at=agent.requested_ms,
        started_at=agent.started_ms,
        ended_at=agent.ended_ms,
        changed_at=agent.changed_ms,
        fencing_token=f"{generation}:{agent.claim_seq}" if agent.claim_seq else "",
    )
