"""The state of an agent, a worker or a pool in a line. Pure; times in ms of log time."""

from eventstore.language.agents import Status
from eventstore.language.workers import WorkerStatus
from projector.explain.story import after, count, short, span
from projector.store.rows import AgentRow, PoolRow, WorkerRow


def agent_now(agent: AgentRow, now_ms: int) -> str:
    """What the agent does or waits for, and since when."""
    since, reason = span(now_ms - agent.changed_at), agent.reason
    match agent.status:
        case Status.PENDING:
            return f"pending for {since}: {reason}"
        case Status.RESTARTING:
            due = f"in {span(agent.due_at - now_ms)}" if agent.due_at else "soon"
            return f"waits to run again {due}: {reason}"
        case Status.RUNNING:
            doing = f", {agent.activity}" if agent.activity else ""
            for_long = span(now_ms - (agent.started_at or agent.changed_at))
            return f"running in worker {short(agent.process_id)} for {for_long}{doing}"
        case Status.STARTING | Status.STOPPING:
            return f"{agent.status} in worker {short(agent.process_id)} for {since}"
        case _:
            ago = span(now_ms - (agent.ended_at or agent.changed_at))
            return f"{agent.status} {ago} ago: {reason}"


def worker_now(worker: WorkerRow, now_ms: int) -> str:
    """Whether the worker lives, what it holds, or since when it is gone."""
    status = worker.status
    if worker.ended_at:
        return f"{status} {span(now_ms - worker.ended_at)} ago: {worker.reason}"
    if status == WorkerStatus.REQUESTED:
        return f"ordered {span(now_ms - (worker.requested_at or now_ms))} ago, not started yet"
    slots = f"{worker.agent_count} of {worker.max_agents} slots taken"
    reason = worker.reason if status != WorkerStatus.ACTIVE else ""
    return after((f"{status} for {span(now_ms - (worker.started_at or now_ms))}, {slots}", reason))


def pool_now(pool: PoolRow) -> str:
    """The pool's workers, slots and agents."""
    slots = f"{pool.used_capacity} of {pool.total_capacity} slots taken"
    waiting = f"{count(pool.pending_count, 'agent')} waiting" if pool.pending_count else ""
    paused = pool.config.get("paused")
    return after(
        (
            after((count(pool.process_count, "worker"), slots, waiting), ", "),
            f"its scaling is paused: {paused}" if paused is not None else "",
        )
    )
