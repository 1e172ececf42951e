"""What a pool's leader carries out when it is due: restarts, time-outs, a deletion."""

from eventstore.errors import Unreadable
from eventstore.language.agent_commands import Command, Restart, Terminate, Withdraw
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import Outcome
from eventstore.log.survey import Survey
from eventstore.steps import clauses
from eventstore.steps.clauses import Leaves
from workers.supervisor.reaper import handle_agent_errors


async def run_due(pool_log: PoolLog, survey: Survey) -> None:
    """Restart the agents that are due, and end those that have waited too long."""
    for schedule, command, listed in (
        (Leaves(due=True), Restart(), survey.due),
        (Leaves(timeout=True), Withdraw(), survey.timeouts),
    ):
        for agent_id, at_ms in listed:
            if at_ms <= survey.ts:
                await _run_scheduled(pool_log, schedule, agent_id, command)


async def _run_scheduled(
    pool_log: PoolLog, schedule: Leaves, agent_id: str, command: Command
) -> None:
    """Carry out what is due; an agent to which it does not apply leaves the schedule."""
    async with handle_agent_errors(pool_log, agent_id):
        acted = await pool_log.act(agent_id, command)
        if acted.outcome is Outcome.ABSENT and agent_id in await pool_log.live():
            raise Unreadable("agent", agent_id, "its hash is gone")
        if acted.outcome in {Outcome.ABSENT, Outcome.ALREADY}:
            step = pool_log.step()
            if acted.agent is not None:
                agent = acted.agent
                step.check(clauses.AgentUnchanged(agent_id, agent.version, agent.incarnation))
            step.write(clauses.MoveAgent(agent_id, schedule))
            await pool_log.commit(step)


async def end_all(pool_log: PoolLog, created_seq: int) -> bool:
    """End every agent of a pool that is being deleted; True when none is left."""
    for agent_id in await pool_log.live():
        async with handle_agent_errors(pool_log, agent_id):
            await pool_log.act(agent_id, Terminate(reason="pool-deleted"), created_seq=created_seq)
    return not await pool_log.live()
