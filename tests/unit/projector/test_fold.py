"""The fold behind the views: pure, and nothing of it is lost in a row."""

import msgspec
import pytest

from eventstore.language.agents import Agent, Status
from eventstore.language.catalogue import Catalogue
from eventstore.language.events import (
    AgentClaimed,
    AgentLost,
    AgentRequested,
    AgentStarted,
    AgentTerminated,
    AnyBody,
    Event,
    HostLeft,
    PoolChanged,
    PoolCreated,
    PoolDeleted,
    PoolScalingDecided,
    WorkerDraining,
    WorkerLost,
    WorkerRequested,
    WorkerStarted,
)
from eventstore.language.workers import Worker, WorkerStatus
from projector.fold.fold import (
    State,
    Unfoldable,
    WorkerLoad,
    fold,
    fold_catalogue,
    touched_agents,
    touched_workers,
)

POOL = "p"
REQUESTED = AgentRequested(role_type="developer", project_id="x")
ORDERED = WorkerRequested(host="h", max_agents=10, deadline_ms=5)
STARTED = WorkerStarted(host="h", pid=1, start_time=1, max_agents=10)


def event(body: AnyBody, subject: str, seq: int = 1, *, worker: str = "", epoch: int = 0) -> Event:
    return Event(
        body=body, event_id="e", subject=subject, seq=seq, ts=seq, worker_id=worker, epoch=epoch
    )


def folded(*events: Event, before: State | None = None) -> State:
    return fold(POOL, events, before or State())


class TestAgentsAndWorkers:
    def test_a_workers_agents_follow_from_claims_and_ends(self) -> None:
        state = folded(
            event(ORDERED, "w"),
            event(STARTED, "w"),
            event(REQUESTED, "a"),
            event(REQUESTED, "b"),
            event(AgentClaimed(), "a", worker="w"),
            event(AgentClaimed(), "b", worker="w"),
            event(AgentStarted(), "a", worker="w"),
            event(AgentTerminated(reason="completed"), "b", worker="w"),
        )
        assert state.workers["w"].agent_count == 1
        assert {i: a.status for i, a in state.agents.items()} == {"a": "running", "b": "terminated"}

    def test_a_dead_workers_agents_are_released_one_by_one(self) -> None:
        held = Agent(
            agent_id="a",
            pool_name=POOL,
            role_type="r",
            project_id="x",
            status=Status.RUNNING,
            worker_id="w",
        )
        worker = Worker(
            worker_id="w", pool_name=POOL, host="h", max_agents=10, status=WorkerStatus.ACTIVE
        )
        before = State({"a": held}, {"w": WorkerLoad(worker, 2)})
        state = folded(
            event(WorkerLost(reason="killed"), "w", epoch=2),
            event(AgentLost(reason="killed", at_ms=1), "a", worker="w"),
            before=before,
        )
        assert (state.workers["w"].worker.status, state.workers["w"].agent_count) == ("lost", 1)
        assert state.agents["a"].status is Status.RESTARTING

    def test_only_what_changed_is_answered(self) -> None:
        first = folded(event(ORDERED, "w"), event(REQUESTED, "a"))
        second = folded(event(AgentTerminated(reason="x"), "a"), before=first)
        assert (list(second.agents), list(second.workers)) == (["a"], [])

    def test_the_rows_that_events_need_are_named(self) -> None:
        events = [
            event(REQUESTED, "new"),
            event(AgentClaimed(), "new", worker="w1"),
            event(AgentStarted(), "old"),
            event(WorkerDraining(reason="x"), "w2"),
        ]
        holder = Agent(
            agent_id="old", pool_name=POOL, role_type="r", project_id="x", worker_id="w3"
        )
        assert touched_agents(events) == {"old"}
        assert touched_workers(events, [holder]) == {"w1", "w2", "w3"}

    @pytest.mark.parametrize(
        ("events", "why"),
        [
            ([event(AgentStarted(), "a", 4)], "seq 4 (agent.started of a): no such agent"),
            ([event(REQUESTED, "a"), event(REQUESTED, "a", 2)], "it exists already"),
            ([event(STARTED, "w")], "no such worker"),
            ([event(ORDERED, "w"), event(ORDERED, "w", 2)], "it exists already"),
            ([event(PoolDeleted(), "p")], "it belongs in the catalogue"),
        ],
    )
    def test_a_log_that_contradicts_itself_is_not_folded(
        self, events: list[Event], why: str
    ) -> None:
        with pytest.raises(Unfoldable) as raised:
            folded(*events)
        assert why in str(raised.value)
        assert raised.value.event is events[-1]

    def test_a_scaling_decision_changes_no_row(self) -> None:
        decided = PoolScalingDecided("x", *range(1, 9))
        assert folded(event(decided, POOL)) == State()


class TestCatalogue:
    def test_it_is_folded_as_the_write_side_folds_it(self) -> None:
        after = fold_catalogue(
            [
                event(PoolCreated(role_type="r"), "p", 1),
                event(PoolChanged(config=msgspec.Raw(b'{"max_workers":3}')), "p", 2),
            ],
            Catalogue(),
        )
        assert (after.pools["p"].config.max_workers, after.seq) == (3, 2)

    @pytest.mark.parametrize("body", [PoolDeleted(), HostLeft(reason="x"), AgentStarted()])
    def test_it_refuses_unknown_events(self, body: AnyBody) -> None:
        with pytest.raises(Unfoldable):
            fold_catalogue([event(body, "p")], Catalogue())
