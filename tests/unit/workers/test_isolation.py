"""Which agents are isolated after a loss, for how long, and what that costs in workers."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from eventstore.language.agent_commands import (
    Clear,
    Command,
    Drop,
    MarkLost,
    Restart,
    Terminate,
    decide,
)
from eventstore.language.agents import Agent, Status, evolve
from eventstore.language.events import AgentClaimed, Event
from eventstore.language.pool_config import PoolConfig
from eventstore.language.restart_policy import RestartPolicy
from eventstore.language.scaling_state import Decision
from eventstore.language.workers import WorkerStatus
from eventstore.log.survey import ObservedWorker, Survey
from tests.unit.workers.test_scaling import after, survey, worker
from workers.runtime.end_conditions import EndConditions
from workers.supervisor import isolation

WINDOW = 600_000
POLICY = RestartPolicy(limit=1, window_ms=WINDOW, backoff_min_ms=1_000, backoff_max_ms=1_000)
RUNNING = Agent(
    agent_id="a",
    pool_name="p",
    role_type="r",
    project_id="x",
    status=Status.RUNNING,
    worker_id="w",
)


def lost(agent: Agent, at_ms: int, **changes: Any) -> Agent:
    """The agent after its worker died."""
    settings: dict[str, Any] = {"suspicion_ms": WINDOW, **changes}
    return done(
        agent, MarkLost(worker_id="w", reason="killed", now_ms=at_ms, policy=POLICY, **settings)
    )


def done(agent: Agent, command: Command) -> Agent:
    for body in decide(command, agent):
        agent = evolve(agent, Event(body=body, event_id="e", subject="a", ts=1), "p")
    return agent


def claimed(agent: Agent) -> Agent:
    event = Event(body=AgentClaimed(), event_id="e", subject="a", worker_id="w")
    return evolve(agent, event, "p")


@pytest.mark.parametrize(
    ("losses", "alone"),
    [((0,), False), ((0, WINDOW - 1), True), ((0, WINDOW), False), ((0, WINDOW, WINDOW + 1), True)],
)
def test_two_losses_within_the_window_isolate_it(losses: Sequence[int], alone: bool) -> None:
    agent = RUNNING
    for at_ms in losses:
        agent = claimed(lost(agent, 1_000_000 + at_ms))
    assert agent.alone is alone


def test_without_a_window_none_is_isolated() -> None:
    agent = claimed(lost(RUNNING, 1_000_000, suspicion_ms=0))
    assert not lost(agent, 1_000_000, suspicion_ms=0).alone


def test_the_loss_of_an_isolated_agent_counts_against_its_budget() -> None:
    alone = msgspec.structs.replace(RUNNING, alone=True, losses=(1, 2))
    once = lost(alone, 1_000_000)
    assert (once.status, once.due_ms, once.failures) == (
        Status.RESTARTING,
        1_001_000,
        (1_000_000,),
    )
    again = claimed(done(once, Restart()))
    assert again.alone
    twice = lost(again, 1_000_500)
    assert (twice.status, twice.reason) == (Status.FAILED, "restart-budget-spent")
    assert twice.last_error is not None
    assert twice.last_error.message == "killed"


def test_a_recovery_of_the_log_counts_against_no_agent() -> None:
    """All workers were lost with it: isolated agents stay so, and spend nothing."""
    alone = msgspec.structs.replace(RUNNING, alone=True, losses=(1, 2))
    after = lost(alone, 1_000_000, blameless=True)
    assert (after.status, after.alone, after.failures) == (Status.PENDING, True, ())
    assert not lost(claimed(lost(RUNNING, 1_000_000)), 1_000_001, blameless=True).alone


def test_an_isolated_agent_with_the_termination_flag_ends() -> None:
    alone = msgspec.structs.replace(RUNNING, alone=True, losses=(1, 2))
    assert lost(done(alone, Terminate()), 1_000_000).status is Status.TERMINATED


def test_a_cleared_agent_has_no_losses() -> None:
    alone = msgspec.structs.replace(RUNNING, alone=True, losses=(1, 2))
    clean = done(alone, Clear(reason="behaved"))
    assert (clean.alone, clean.losses, clean.status) == (False, (), Status.RUNNING)
    assert decide(Clear(reason="behaved"), clean) == ()


@pytest.mark.parametrize("status", [s for s in Status if s not in {"terminated", "failed"}])
def test_it_can_be_dropped_in_every_status(status: Status) -> None:
    ended = done(msgspec.structs.replace(RUNNING, status=status), Drop())
    assert (ended.status, ended.reason) == (Status.TERMINATED, "dropped")


def test_the_isolation_window_is_for_isolated_agents_and_ends() -> None:
    alone = msgspec.structs.replace(RUNNING, alone=True)
    window = conditions(PoolConfig(suspicion_window_seconds=600.0))
    assert window.wait_seconds(RUNNING) is None
    assert 599 < (window.wait_seconds(alone) or 0) <= 600
    assert not window.isolation_ended(alone)
    over = conditions(PoolConfig(suspicion_window_seconds=0.0))
    assert over.isolation_ended(alone)
    assert not over.isolation_ended(RUNNING)
    assert over.wait_seconds(alone) == 0.0


def conditions(config: PoolConfig) -> EndConditions:
    return EndConditions(cast("Any", SimpleNamespace(config=config)), cast("Any", None), None, None)


# ---- workers ---------------------------------------------------------------------------------

CONFIG = PoolConfig(max_workers=4, agents_per_worker=10)


def with_alone(*workers: ObservedWorker, alone: int, waiting: int = 0) -> Survey:
    found = survey(*workers, waiting=waiting)
    taken_slots = sum(o.worker.max_agents - o.agent_count for o in workers if o.isolated_agent)
    free = found.free - taken_slots
    return msgspec.structs.replace(found, waiting_isolated=alone, free=free)


def isolating(name: str) -> ObservedWorker:
    return ObservedWorker(worker(name).worker, 1, 1, 0, "a")


def decided(found: Survey, config: PoolConfig = CONFIG) -> Decision:
    return after(400, found, config)


def test_each_isolated_agent_counts_as_the_load_of_a_worker() -> None:
    assert decided(with_alone(worker("w", agents=1), alone=2)).order == 2
    assert decided(with_alone(worker("w", agents=1), alone=1, waiting=12)).order == 2


def test_an_empty_or_ordered_worker_is_enough() -> None:
    coming = worker("o", status=WorkerStatus.REQUESTED)
    assert decided(with_alone(worker("e"), alone=1)).order == 0
    assert decided(with_alone(worker("w", agents=9), coming, alone=1)).order == 0
    found = with_alone(worker("e"), coming, alone=1, waiting=11)
    assert decided(found).order == 1, "their workers are not free for the others"


def test_at_most_half_of_the_workers_are_for_isolated_agents() -> None:
    assert decided(with_alone(isolating("t"), alone=5)).order == 1
    assert decided(with_alone(isolating("t"), isolating("u"), alone=5)).order == 0
    assert PoolConfig(max_workers=1).isolation_limit == 1
    assert PoolConfig(max_workers=100, max_alone_workers=7).isolation_limit == 7


def test_no_worker_is_drained_while_an_isolated_agent_waits() -> None:
    assert decided(with_alone(worker("e"), alone=1)).remove == 0


def test_at_the_maximum_no_worker_is_emptied_for_it() -> None:
    full = [worker(name, agents=10) for name in "abc"]
    decision = decided(with_alone(*full, worker("d", agents=1), alone=1))
    assert (decision.order, decision.remove, decision.limit) == (0, 0, "max_workers")


# ---- where fewer may be isolated than are under suspicion ------------------------------------


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({"max_workers": 100}, 600.0),
        ({"max_workers": 100, "max_alone_workers": 5}, 300.0),
        ({"max_workers": 8, "agents_per_worker": 4}, 600.0),
        ({"max_workers": 4}, 120.0),
        ({"max_workers": 1}, 60.0),
        ({"max_workers": 1, "agents_per_worker": 1_000}, 60.0),
    ],
)
def test_all_agents_of_a_worker_are_isolated_once_within_the_window(
    limits: dict[str, Any], seconds: float
) -> None:
    config = PoolConfig(**limits)
    assert config.isolation_seconds == pytest.approx(seconds)
    suspects = min(config.agents_per_worker, 10 * config.isolation_limit)
    turns = -(-suspects // config.isolation_limit)
    assert turns * config.isolation_seconds <= config.suspicion_window_seconds + 1e-6


def test_if_a_worker_is_possible_it_waits_for_the_complete_window() -> None:
    full = [worker(name, agents=10) for name in "abc"]
    below_maximum = with_alone(*full, alone=1)
    assert isolation.max_wait_seconds(below_maximum, CONFIG) == 600.0
    ordered = with_alone(*full, worker("o", status=WorkerStatus.REQUESTED), alone=1)
    assert isolation.max_wait_seconds(ordered, CONFIG) == 600.0
    assert isolation.max_wait_seconds(with_alone(*full, worker("e"), alone=1), CONFIG) == 600.0


def test_if_no_worker_is_possible_it_waits_for_a_tenth_of_the_window() -> None:
    full = [worker(name, agents=10) for name in "abcd"]
    assert isolation.max_wait_seconds(with_alone(*full, alone=1), CONFIG) == 60.0
    limit_reached = with_alone(isolating("t"), isolating("u"), worker("e"), alone=1)
    assert isolation.max_wait_seconds(limit_reached, CONFIG) == 60.0
    draining = worker("x", agents=2, status=WorkerStatus.DRAINING)
    assert isolation.max_wait_seconds(with_alone(*full[1:], draining, alone=1), CONFIG) == 600.0
