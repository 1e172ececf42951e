"""Every event names what it follows from, and an agent's events the request for the agent."""

from eventstore.language.agent_commands import End, MarkLost, Spawn, Started, Terminate, decide
from eventstore.language.agents import Agent
from eventstore.language.events import AgentClaimed, AgentRequested, WorkerRequested
from eventstore.language.workers import Drain, Start
from eventstore.language.workers import decide as decide_worker
from eventstore.steps.step import Origin, Step

REQUEST = Origin(actor="http", correlation_id="request-1")
LATER = Origin(actor="http", correlation_id="request-2")
WORKER = Origin(actor="worker:w")


class Steps:
    """Steps with numbered events."""

    def __init__(self) -> None:
        self.count = 0
        self.causes: list[tuple[str, str, str]] = []

    def new_id(self) -> str:
        self.count += 1
        return f"e{self.count}"

    def agent(self, old: Agent | None, bodies: tuple, origin: Origin) -> Agent:
        step = Step("p", self.new_id, origin, ended_ms=1)
        new = step.agent("a", old, bodies)
        self.causes += [(e.type, e.causation_id, e.correlation_id) for e in step.events]
        return new


def test_the_events_of_an_agent_follow_from_each_other():
    steps = Steps()
    spawn = Spawn(request=AgentRequested(role_type="r", project_id="p"))
    agent = steps.agent(None, decide(spawn, None), REQUEST)
    agent = steps.agent(agent, (AgentClaimed(),), WORKER)
    agent = steps.agent(agent, decide(Started(now_ms=1), agent), WORKER)
    lost = MarkLost(worker_id="", reason="killed", now_ms=1)
    agent = steps.agent(agent, decide(lost, agent), Origin(causation_id="worker-lost"))
    agent = steps.agent(agent, (AgentClaimed(),), WORKER)
    agent = steps.agent(agent, decide(Terminate(reason="enough"), agent), LATER)
    steps.agent(agent, decide(End(reason="requested"), agent), WORKER)
    assert steps.causes == [
        ("agent.requested", "", "request-1"),
        ("agent.claimed", "e1", "request-1"),
        ("agent.started", "e2", "request-1"),
        ("agent.lost", "worker-lost", "request-1"),
        ("agent.restarting", "e4", "request-1"),
        ("agent.claimed", "e5", "request-1"),
        ("agent.termination_requested", "", "request-1"),
        ("agent.terminated", "e7", "request-1"),
    ]


def test_a_worker_follows_from_the_decision_to_order_it():
    steps = Steps()
    step = Step("p", steps.new_id, WORKER, ended_ms=1)
    order = WorkerRequested(host="h", max_agents=1, deadline_ms=9)
    worker = step.worker("w", None, (order,), causation_id="decided")
    worker = step.worker("w", worker, decide_worker(Start(host="h", pid=1, start_time=1), worker))
    step.worker("w", worker, decide_worker(Drain(reason="shutdown"), worker))
    assert [event.causation_id for event in step.events] == ["decided", "e1", "e2"]
