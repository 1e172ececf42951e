"""How many workers a pool should have."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.language.pool_config import PoolConfig
from eventstore.language.scaling import decide_scale
from eventstore.language.scaling_state import Decision, Memory
from eventstore.language.workers import Worker, WorkerStatus
from eventstore.log.survey import ObservedWorker, Survey
from workers.supervisor import scaling


def worker(
    name: str,
    agents: int = 0,
    status: WorkerStatus = WorkerStatus.ACTIVE,
    slots: int = 10,
    *,
    cordoned: bool = False,
) -> ObservedWorker:
    draining = status is WorkerStatus.DRAINING
    state = Worker(
        worker_id=name, pool_name="p", host="h", max_agents=slots, status=status,
        draining=draining, cordoned="odd" if cordoned else "",
    )  # fmt: skip
    return ObservedWorker(state, agents, 1, 0)


def survey(*workers: ObservedWorker, waiting: int = 0, restarting: int = 0) -> Survey:
    free = sum(o.worker.max_agents - o.agent_count for o in workers if o.worker.claims)
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


def decide(
    found: Survey, config: PoolConfig | None = None, memory: Memory | None = None, **more: bool
) -> Decision:
    config = config or PoolConfig()
    seen = scaling.observe(found, config, **more)
    return decide_scale(seen, config.scale_policy, memory or Memory())[0]


def after(seconds: float, found: Survey, config: PoolConfig | None = None) -> Decision:
    """The decision after so long in which a pool did not change."""
    config, memory = config or PoolConfig(), Memory()
    for elapsed in range(0, int(seconds * 1000) + 1, 500):
        seen = scaling.observe(replace(found, ts=1 + elapsed), config)
        decision, memory = decide_scale(seen, config.scale_policy, memory)
    return decision


def launches(found: Survey, config: PoolConfig | None = None) -> int:
    return decide(found, config).order


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


def test_it_never_exceeds_the_maximum_and_names_that_as_the_limit() -> None:
    decision = decide(survey(worker("a", agents=10), waiting=50), PoolConfig(max_workers=3))
    assert (decision.order, decision.wanted, decision.limit) == (2, 6, "max_workers")


def test_it_never_exceeds_what_the_hosts_can_start() -> None:
    seen = replace(scaling.observe(survey(waiting=50), PoolConfig()), host_room=2)
    decision, _ = decide_scale(seen, PoolConfig().scale_policy, Memory())
    assert (decision.order, decision.limit) == (2, "host_room")


def test_the_minimum_is_retained_without_load() -> None:
    assert launches(survey(), PoolConfig(min_workers=2)) == 2
    found = survey(worker("a"), worker("b"), worker("c"))
    assert after(400, found, PoolConfig(min_workers=2)).remove == 1


def test_a_worker_is_removed_once_it_was_not_needed_for_the_window() -> None:
    found = survey(worker("a", agents=1), worker("b"))
    config = PoolConfig(empty_worker_seconds=300)
    early = after(299, found, config)
    assert (early.remove, early.limit) == (0, "down.window_seconds")
    assert after(320, found, config).remove == 1
    assert after(0, found, PoolConfig(empty_worker_seconds=0)).remove == 1


def test_workers_with_agents_are_not_removed() -> None:
    found = survey(worker("a", agents=1), worker("b", agents=1))
    decision = after(400, found)
    assert (decision.wanted, decision.remove, decision.limit) == (1, 0, "occupied")


def test_no_worker_is_drained_while_something_waits_for_its_slots() -> None:
    assert after(400, survey(worker("b"), waiting=1)).remove == 0


def test_empty_workers_are_removed_in_the_order_of_their_orders() -> None:
    found = survey(worker("a", agents=1), worker("c"), worker("b"))
    assert scaling.victims(found, 1) == ["b"]


def test_a_cordoned_worker_is_no_room_and_is_kept_until_its_pool_is_deleted() -> None:
    found = survey(worker("a", cordoned=True), waiting=1)
    assert decide(found).order == 1
    assert decide(found, PoolConfig(max_workers=1)).limit == "max_workers"
    empty = survey(worker("a", cordoned=True), worker("b"))
    assert scaling.victims(empty, after(400, empty).remove) == ["b"]
    decision = decide(empty, deleted=True)
    assert scaling.victims(empty, decision.remove, deleted=True) == ["a", "b"]


def test_a_deleted_pool_stops_all_workers_and_starts_none() -> None:
    config = PoolConfig(min_workers=1)
    decision = decide(survey(worker("a")), config, deleted=True)
    assert (decision.remove, decision.winner) == (1, "pool-deleted")
    assert decide(survey(waiting=5), config, deleted=True).order == 0


workers_drawn = st.lists(
    st.tuples(st.integers(0, 10), st.sampled_from(list(WorkerStatus)), st.booleans()), max_size=8
)


@given(drawn=workers_drawn, waiting=st.integers(0, 200), restarting=st.integers(0, 20))
def test_no_worker_with_agents_is_ever_stopped(
    drawn: list[tuple[int, WorkerStatus, bool]], waiting: int, restarting: int
) -> None:
    observed = [
        worker(f"w{n}", agents, status, cordoned=cordoned)
        for n, (agents, status, cordoned) in enumerate(drawn)
    ]
    found = survey(*observed, waiting=waiting, restarting=restarting)
    config = PoolConfig(max_workers=6)
    decision = after(320, found, config)
    removed = scaling.victims(found, decision.remove)
    assert len(removed) == decision.remove
    kept = {o.worker.worker_id for o in observed if o.agent_count or o.worker.cordoned}
    assert not kept & set(removed)
    staying = sum(
        o.worker.status is not WorkerStatus.DRAINING and not o.worker.ended for o in observed
    )
    assert decision.order == 0 or staying + decision.order <= config.max_workers
    launched = decision.order * config.agents_per_worker
    ordered = 10 * sum(o.worker.status is WorkerStatus.REQUESTED for o in observed)
    enough = found.free - 10 * len(removed) + ordered + launched >= waiting + restarting
    assert enough or decision.limit == "max_workers"


def test_workers_are_spread_over_hosts_by_their_number() -> None:
    placed = scaling.place_workers(3, {"h": 9, "i": 9}, survey(worker("a")), prefer="h")
    assert placed == ["i", "h", "i"]
    assert scaling.place_workers(2, {}, survey(), prefer="h") == []


def test_a_host_gets_no_more_workers_than_it_takes() -> None:
    room = {"h": 1, "i": 0, "j": 2}
    assert sorted(scaling.place_workers(9, room, survey(), prefer="h")) == ["h", "j", "j"]
