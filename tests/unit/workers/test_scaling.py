"""How many workers a pool should have."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.language.pool_config import PoolConfig
from eventstore.language.workers import Worker, WorkerStatus
from eventstore.log.survey import ObservedWorker, Survey
from workers.supervisor import scaling


def worker(
    name: str, agents: int = 0, status: WorkerStatus = WorkerStatus.ACTIVE, slots: int = 10
) -> ObservedWorker:
    draining = status is WorkerStatus.DRAINING
    state = Worker(
        worker_id=name, pool_name="p", host="h", max_agents=slots, status=status, draining=draining
    )
    return ObservedWorker(state, agents, 1, 0)


def survey(*workers: ObservedWorker, waiting: int = 0, restarting: int = 0) -> Survey:
    free = sum(
        o.worker.max_agents - o.agent_count
        for o in workers
        if o.worker.status is WorkerStatus.ACTIVE
    )
    return Survey(
        ts=0,
        waiting=waiting,
        free=free,
        restarting=restarting,
        live=waiting + restarting,
        scaling=0,
        closed="",
        due=(),
        timeouts=(),
        workers=workers,
    )


def launches(found: Survey, config: PoolConfig | None = None) -> int:
    return scaling.decide(found, config or PoolConfig(), empty_seconds={}).launch


def test_one_pending_spawn_starts_the_first_worker() -> None:
    assert launches(survey(waiting=1)) == 1


def test_fifteen_need_two_workers_not_fifteen() -> None:
    assert launches(survey(waiting=15)) == 2


def test_ordered_workers_count_as_capacity() -> None:
    ordered = [worker(n, status=WorkerStatus.REQUESTED) for n in ("a", "b")]
    assert launches(survey(*ordered, waiting=20)) == 0
    assert launches(survey(*ordered, waiting=21)) == 1


def test_a_stalled_worker_has_no_room_and_is_replaced_once() -> None:
    """Whatever waits, its free slots are all that is missing because of it."""
    stalled = replace(worker("a", agents=4), stalled="stalled in agents.py:1 run")
    others = [worker("b", agents=10)]
    assert launches(survey(stalled, *others, waiting=6)) == 1
    replaced = [*others, worker("c", status=WorkerStatus.REQUESTED)]
    assert launches(survey(stalled, *replaced, waiting=6)) == 0
    assert launches(survey(stalled, *others)) == 0
    assert launches(survey(stalled, *others, waiting=6), PoolConfig(max_workers=2)) == 0


def test_free_slots_come_first() -> None:
    assert launches(survey(worker("a", agents=4), waiting=6)) == 0
    assert launches(survey(worker("a", agents=4), waiting=7)) == 1


def test_a_restart_that_is_due_later_is_load_already() -> None:
    assert launches(survey(worker("a", agents=10), restarting=1)) == 1


def test_a_draining_worker_is_no_capacity() -> None:
    draining = worker("a", agents=0, status=WorkerStatus.DRAINING)
    assert launches(survey(draining, waiting=1)) == 1


def test_it_never_exceeds_the_maximum_and_names_that_as_the_reason() -> None:
    decision = scaling.decide(
        survey(worker("a", agents=10), waiting=50), PoolConfig(max_workers=3), empty_seconds={}
    )
    assert (decision.launch, decision.at_maximum) == (2, True)


def test_the_minimum_is_retained_without_load() -> None:
    assert launches(survey(), PoolConfig(min_workers=2)) == 2


def test_an_empty_worker_is_stopped_after_its_time_and_not_before() -> None:
    found = survey(worker("a", agents=1), worker("b"), worker("c"))
    decision = scaling.decide(
        found, PoolConfig(empty_worker_seconds=300), empty_seconds={"b": 299.0, "c": 301.0}
    )
    assert decision.drain == ("c",)


def test_no_worker_is_drained_while_something_waits() -> None:
    found = survey(worker("b"), waiting=1)
    decision = scaling.decide(found, PoolConfig(), empty_seconds={"b": 999.0})
    assert decision.drain == ()


def test_a_deleted_pool_stops_all_workers_and_starts_none() -> None:
    config = PoolConfig(min_workers=1)
    decision = scaling.decide(survey(worker("a")), config, empty_seconds={"a": 0.0}, deleted=True)
    assert decision.drain == ("a",)
    decision = scaling.decide(survey(waiting=5), config, empty_seconds={}, deleted=True)
    assert decision.launch == 0


workers_drawn = st.lists(
    st.tuples(st.integers(0, 10), st.sampled_from(list(WorkerStatus)), st.floats(0, 1000)),
    max_size=8,
)


@given(drawn=workers_drawn, waiting=st.integers(0, 200), restarting=st.integers(0, 20))
def test_no_worker_with_agents_is_ever_stopped(
    drawn: list[tuple[int, WorkerStatus, float]], waiting: int, restarting: int
) -> None:
    observed = [worker(f"w{n}", agents, status) for n, (agents, status, _) in enumerate(drawn)]
    found = survey(*observed, waiting=waiting, restarting=restarting)
    empty = {
        o.worker.worker_id: seconds
        for o, (agents, _, seconds) in zip(observed, drawn, strict=True)
        if agents == 0
    }
    config = PoolConfig(max_workers=6)
    decision = scaling.decide(found, config, empty_seconds=empty)
    holding = {o.worker.worker_id for o in observed if o.agent_count}
    assert not holding & set(decision.drain)
    assert not (decision.launch and decision.drain)
    standing = sum(
        o.worker.status is not WorkerStatus.DRAINING and not o.worker.ended for o in observed
    )
    assert decision.launch == 0 or standing + decision.launch <= config.max_workers
    launched = decision.launch * config.agents_per_worker
    ordered = 10 * sum(o.worker.status is WorkerStatus.REQUESTED for o in observed)
    enough = found.free + ordered + launched >= waiting + restarting
    assert enough or decision.at_maximum


def test_workers_are_spread_over_hosts_by_their_number() -> None:
    placed = scaling.place_workers(3, {"h": 9, "i": 9}, survey(worker("a")), prefer="h")
    assert placed == ["i", "h", "i"]
    assert scaling.place_workers(2, {}, survey(), prefer="h") == []


def test_a_host_gets_no_more_workers_than_it_takes() -> None:
    room = {"h": 1, "i": 0, "j": 2}
    assert sorted(scaling.place_workers(9, room, survey(), prefer="h")) == ["h", "j", "j"]
