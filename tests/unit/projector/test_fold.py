"""The fold behind the views: pure, and nothing of it is lost in a row."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.language.agents import Agent, Status, Stop
from eventstore.language.catalogue import Catalogue, Host, Pool
from eventstore.language.events import (
    AgentClaimed,
    AgentLost,
    AgentRequested,
    AgentStarted,
    AgentTerminated,
    AnyBody,
    Error,
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
from eventstore.language.pool_config import PoolConfig
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
from projector.store.mapping import (
    agent_of,
    agent_record,
    host_of,
    host_record,
    pool_of,
    pool_record,
    worker_of,
    worker_record,
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
    def test_a_worker_holds_what_claims_and_ends_leave_it(self) -> None:
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

    def test_the_dead_hand_back_their_agents_one_by_one(self) -> None:
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

    def test_what_is_needed_before_is_named(self) -> None:
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
        counts = dict.fromkeys(PoolScalingDecided.__struct_fields__, 1) | {"reason": "x"}
        assert folded(event(msgspec.convert(counts, PoolScalingDecided), POOL)) == State()


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
    def test_it_refuses_what_it_does_not_know(self, body: AnyBody) -> None:
        with pytest.raises(Unfoldable):
            fold_catalogue([event(body, "p")], Catalogue())


# ---- rows give the states back -----------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
counts = st.integers(0, 2**53)
agents = st.builds(
    Agent,
    agent_id=texts,
    pool_name=texts,
    role_type=texts,
    project_id=texts,
    status=st.sampled_from(Status),
    reason=texts,
    stop=st.sampled_from(Stop),
    incarnation=counts,
    version=counts,
    worker_id=texts,
    epoch=counts,
    claim_seq=counts,
    heartbeat_interval=st.floats(0, 1e9),
    max_idle_time=st.none() | st.floats(0, 1e9),
    expires_ms=counts,
    due_ms=counts,
    failures=st.lists(counts, max_size=3).map(tuple),
    losses=st.lists(counts, max_size=2).map(tuple),
    input=st.dictionaries(texts, counts).map(lambda d: msgspec.Raw(msgspec.json.encode(d))),
    labels=st.dictionaries(texts, texts, max_size=3),
    last_error=st.none() | st.builds(Error, type=texts, message=texts, traceback=texts),
    requested_ms=counts,
    started_ms=counts,
    ended_ms=counts,
    changed_ms=counts,
    alone=st.booleans(),
)
workers = st.builds(
    Worker,
    worker_id=texts,
    pool_name=texts,
    host=texts,
    max_agents=counts,
    status=st.sampled_from(WorkerStatus),
    reason=texts,
    draining=st.booleans(),
    version=counts,
    epoch=counts,
    pid=counts,
    start_time=counts,
    deadline_ms=counts,
    requested_ms=counts,
    started_ms=counts,
    ended_ms=counts,
)


class TestRows:
    def test_every_field_of_a_state_is_tried_below(self) -> None:
        """A field that is added to a state must be added to its row, or restarts forget it."""
        assert len(agent_record(_agent(), 1)) == len(Agent.__struct_fields__) + 1  # generation
        beside_worker = ("agent_count", "alone")
        assert len(worker_record(_worker(), 0, "")) == len(Worker.__struct_fields__ + beside_worker)
        pool = pool_record(Pool(pool_name="p", role_type="r"))
        assert len(pool) == len(Pool.__struct_fields__) - 1  # unknown settings stand in config
        assert len(host_record(Host(host="h", hostname="b"))) == len(Host.__struct_fields__)

    @given(agents)
    def test_an_agents_row_gives_the_agent_back(self, agent: Agent) -> None:
        assert agent_of(agent_record(agent, 1)) == agent

    @given(workers)
    def test_a_workers_row_gives_the_worker_back(self, worker: Worker) -> None:
        assert worker_of(worker_record(worker, 3, "a")) == worker

    def test_pools_and_hosts_come_back_too(self) -> None:
        pool = Pool(
            pool_name="p",
            role_type="r",
            config=PoolConfig(max_workers=3, lease_seconds=7.5),
            unknown={"colour": "red"},
            version=2,
            deleted=True,
            created_seq=4,
            created_ms=5,
            changed_ms=6,
        )
        host = Host(host="h", hostname="b", pid=1, status="left", reason="x", version=2)
        assert pool_of(pool_record(pool)) == pool
        assert host_of(host_record(host)) == host

    def test_a_reason_that_postgresql_cannot_hold_is_made_storable(self) -> None:
        agent = msgspec.structs.replace(_agent(), reason="a\0b")
        assert agent_record(agent, 1)["reason"] == "a\N{REPLACEMENT CHARACTER}b"


def _agent() -> Agent:
    return Agent(agent_id="a", pool_name="p", role_type="r", project_id="x")


def _worker() -> Worker:
    return Worker(worker_id="w", pool_name="p", host="h", max_agents=1)
