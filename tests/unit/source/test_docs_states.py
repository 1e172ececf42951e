"""The state diagrams in the architecture page are those of the code, edge by edge."""

import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from eventstore.language import agent_commands, agents, workers
from eventstore.language.events import AgentClaimed, AgentRequested, Error, Event, WorkerRequested
from eventstore.language.restart_policy import RestartPolicy

PAGE = (Path(__file__).parents[3] / "docs/architecture.md").read_text()
POLICY = RestartPolicy(limit=1, start_limit=1)
BEGIN = "[*]"


def drawn(heading: str) -> set[tuple[str, str]]:
    """The edges of the diagram under a heading."""
    text = PAGE.partition(f"### {heading}\n")[2].partition("```mermaid")[2].partition("```")[0]
    edges = re.findall(r"^\s*(\S+) --> ([^\s:]+)", text, re.MULTILINE)
    assert edges, heading
    return {(old, new) for old, new in edges if new != BEGIN}


def walked(
    first: Any, follow: Callable[[Any], Iterable[list[Any]]], ended: Callable[[Any], bool]
) -> set[tuple[str, str]]:
    """Every change of status that any command leads to, from any state that can be reached."""
    edges = {(BEGIN, first.status.value)}
    seen, todo = set(), [first]
    for _ in range(10_000):
        if not todo:
            break
        state = todo.pop()
        facts = ("status", "stop", "draining", "failures_in_row", "restart", "has_run")
        key = tuple(getattr(state, name, "") for name in facts)
        key += (getattr(state, "losses_in_row", 0) > 1,)
        if key in seen:
            continue
        seen.add(key)
        steps = list(follow(state))
        assert not (steps and ended(state)), "a final state is never left"
        for step in steps:
            for old, new in pairwise([state, *step]):
                if old.status is not new.status:
                    edges.add((old.status.value, new.status.value))
            todo.append(step[-1])
    assert not todo
    return edges


def event_of(body: Any, worker_id: str = "") -> Event:
    return Event(body=body, event_id="e", subject="s", worker_id=worker_id, epoch=1, seq=1, ts=1)


def agent_steps(agent: agents.Agent) -> Iterable[list[agents.Agent]]:
    """For each command that has an effect, the states that its events go through."""
    error = Error(type="E")
    failures = [
        agent_commands.Fail(during=during, error=error, now_ms=1_000, policy=POLICY)
        for during in ("start", "run", "check")
    ]
    commands: list[agent_commands.Command] = [
        agent_commands.Terminate(),
        agent_commands.Terminate(graceful=False),
        agent_commands.Withdraw(),
        agent_commands.Started(now_ms=1),
        agent_commands.End(reason="completed"),
        agent_commands.Release(reason="drain"),
        agent_commands.MarkLost(worker_id="w", reason="lost", now_ms=1, policy=POLICY),
        agent_commands.Restart(),
        agent_commands.RequestRestart(reason="repaired"),
        *failures,
    ]
    found = [agent_commands.decide(command, agent) for command in commands]
    if agent.status is agents.Status.PENDING and not agent.stop:
        found.append((AgentClaimed(),))  # chosen by claim.lua
    for bodies in filter(None, found):
        states = [agent]
        for body in bodies:
            states.append(agents.evolve(states[-1], event_of(body, "w"), "p"))
        yield states[1:]


def worker_steps(worker: workers.Worker) -> Iterable[list[workers.Worker]]:
    commands: list[workers.WorkerCommand] = [
        workers.Start(host="h", pid=1, start_time=1),
        workers.Suspect(reason=""),
        workers.Recover(),
        workers.Cordon(reason=""),
        workers.Uncordon(reason=""),
        workers.Drain(reason=""),
        workers.StopWorker(reason=""),
        workers.DeclareLost(reason=""),
    ]
    for command in commands:
        for body in workers.decide(command, worker):
            yield [workers.evolve(worker, event_of(body), "p")]


def is_terminated(agent: agents.Agent) -> bool:
    return agent.status is agents.Status.TERMINATED


def test_the_diagram_of_an_agent_has_every_change_of_status_and_no_other() -> None:
    request = AgentRequested(role_type="r", project_id="p", expires_ms=1)
    first = agents.evolve(None, event_of(request), "p")
    assert drawn("An agent") == walked(
        first, agent_steps, lambda agent: agent.status == "terminated"
    )


def test_the_diagram_of_a_worker_has_every_change_of_status_and_no_other() -> None:
    order = WorkerRequested(host="h", max_agents=10, deadline_ms=1)
    first = workers.evolve(None, event_of(order), "p")
    assert drawn("A worker") == walked(first, worker_steps, lambda worker: worker.ended)
