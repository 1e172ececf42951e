"""`decide_scale`: what holds a change back, and what is remembered for that."""

import pytest
from msgspec.structs import replace

from eventstore.language.pool_config import PoolConfig
from eventstore.language.scale_policy import Behaviour, ScalePolicy
from eventstore.language.scaling import decide_scale, resumed
from eventstore.language.scaling_state import Memory
from tests.unit.eventstore.scaled_pool import START_MS, Pool, decide, seen


def test_a_burst_is_answered_in_one_decision() -> None:
    pool = Pool(ScalePolicy())
    assert pool.observe(200).order == 20
    assert pool.observe(200).order == 0


@pytest.mark.parametrize(
    ("more", "order", "limit"),
    [
        ({}, 3, "max_workers"),
        ({"host_room": 3}, 3, "max_workers"),
        ({"host_room": 2}, 2, "host_room"),
    ],
)
def test_no_more_than_the_pool_may_have_and_the_hosts_can_start(
    more: dict[str, int], order: int, limit: str
) -> None:
    decision = decide(seen(200, 2, **more), ScalePolicy(max_workers=5))
    assert (decision.wanted, decision.order, decision.limit) == (20, order, limit)


def test_more_than_the_maximum_that_are_there_stay() -> None:
    decision = decide(seen(90, 8), ScalePolicy(max_workers=5))
    assert (decision.desired, decision.limit) == (8, "max_workers")


def test_a_worker_is_removed_once_no_observation_of_the_window_needed_it() -> None:
    pool = Pool(ScalePolicy(down=Behaviour(window_seconds=160.0)))
    pool.observe(15)
    pool.observe(5)
    held_back = [pool.observe(5) for _ in range(158)]
    assert {decision.limit for decision in held_back} == {"down.window_seconds"}
    assert pool.observe(15).remove == 0
    removed = next(at for at in range(1, 200) if pool.observe(5).remove)
    assert 160 <= removed <= 171, "its window began again, and ends within a sixteenth of it"


def test_a_new_leader_waits_for_a_whole_window() -> None:
    policy = ScalePolicy(down=Behaviour(window_seconds=160.0))
    decision, memory = decide_scale(seen(5, 2), policy, Memory())
    assert (decision.remove, decision.limit) == (0, "down.window_seconds")
    assert decide(seen(5, 2, seconds=159.0), policy, memory).remove == 0
    assert decide(seen(5, 2, seconds=171.0), policy, memory).remove == 1


def test_the_next_leader_goes_on_with_what_was_recorded() -> None:
    """What nothing has observed since then may have been needed, but for what was being emptied."""
    policy = ScalePolicy(up=Behaviour(workers_per_minute=3), down=Behaviour(window_seconds=160.0))
    pool = Pool(policy)
    pool.observe(200)
    memory = resumed(pool.memory, seen(5, 3, seconds=9.0), policy, surplus=0)
    assert decide(seen(200, 3, seconds=9.0), policy, memory).limit == "up.workers_per_minute"
    assert decide(seen(5, 3, seconds=9.0), policy, memory).limit == "down.window_seconds"
    memory = resumed(pool.memory, seen(5, 3, seconds=300.0), policy, surplus=2)
    assert decide(seen(5, 3, seconds=300.0), policy, memory).remove == 2
    assert decide(seen(15, 3, seconds=300.0), policy, memory).remove == 1


def test_what_was_called_for_in_a_shorter_window_does_not_count_for_ever() -> None:
    pool = Pool(ScalePolicy(down=Behaviour(window_seconds=16.0)))
    pool.observe(50)
    pool.policy = ScalePolicy(down=Behaviour(window_seconds=160.0))
    assert any(pool.observe(5).remove for _ in range(200))


def test_what_only_a_service_level_called_for_is_kept_for_an_eighth_of_the_window() -> None:
    policy = ScalePolicy(service_level=0.99, down=Behaviour(window_seconds=160.0))
    restless = Memory(ts=START_MS - 10_000, load=500, weight=1.0, spread=20.0, start_seconds=30.0)
    decision, memory = decide_scale(seen(500, 60), policy, restless)
    assert decision.winner == "service-level"
    quiet = replace(memory, spread=0.0)
    kept = decide(seen(500, 60, seconds=19.0), policy, quiet)
    assert (kept.desired, kept.limit) == (decision.wanted, "down.window_seconds")
    assert decide(seen(500, 60, seconds=22.0), policy, quiet).desired == 50
    busier, memory = decide_scale(seen(550, 60), policy, replace(restless, load=550, spread=0.0))
    assert busier.desired == 55
    assert decide(seen(500, 55, seconds=22.0), policy, replace(memory, spread=0.0)).remove == 0


def test_workers_are_added_once_every_observation_of_the_window_needed_them() -> None:
    pool = Pool(ScalePolicy(up=Behaviour(window_seconds=16.0)))
    pool.workers = 1
    pool.observe(5)
    assert pool.observe(25).limit == "up.window_seconds"
    assert [pool.observe(15).order for _ in range(20)].index(1) in {15, 16}


@pytest.mark.parametrize(("load", "removed"), [(121, 0), (120, 6), (100, 8), (10, 17), (0, 20)])
def test_a_quarter_of_the_tolerance_is_left(load: int, removed: int) -> None:
    """Of twenty workers, eight; nothing is left without load."""
    policy = ScalePolicy(down=Behaviour(tolerance=0.4))
    assert decide(seen(load, 20), policy).remove == removed


def test_a_small_change_upwards_is_not_made_either() -> None:
    policy = ScalePolicy(up=Behaviour(tolerance=0.1))
    assert decide(seen(201, 20), policy).limit == "up.tolerance"
    assert decide(seen(211, 20), policy).order == 2


def test_so_many_workers_a_minute_in_each_direction() -> None:
    behaviour = Behaviour(workers_per_minute=4)
    pool = Pool(ScalePolicy(up=behaviour, down=behaviour))
    assert [pool.observe(200, after=20.0).order for _ in range(5)] == [4, 0, 0, 4, 0]
    assert pool.observe(200, after=1.0).limit == "up.workers_per_minute"
    pool.workers = 20
    assert [pool.observe(0, after=20.0).remove for _ in range(5)] == [4, 0, 0, 4, 0]


def test_of_a_number_and_a_share_a_minute_the_larger_counts() -> None:
    up = Behaviour(workers_per_minute=3, percent_per_minute=50)
    assert decide(seen(900, 2), ScalePolicy(up=up)).order == 3
    assert decide(seen(900, 10), ScalePolicy(up=up)).order == 5


def test_workers_with_agents_are_never_removed() -> None:
    observed = replace(seen(5, 5), empty=2)
    decision = decide(observed, ScalePolicy(down=Behaviour()))
    assert (decision.wanted, decision.remove, decision.limit) == (1, 2, "occupied")
    assert decision.surplus == 2, "of those with agents"
    enough = decide(replace(observed, empty=4), ScalePolicy(down=Behaviour()))
    assert (enough.remove, enough.limit, enough.surplus) == (4, "", 0)


def test_a_surplus_heeds_what_else_holds_back() -> None:
    observed = replace(seen(5, 9), empty=1)
    slowly = ScalePolicy(down=Behaviour(workers_per_minute=3))
    assert decide(observed, slowly).surplus == 2
    assert decide(observed, ScalePolicy(min_workers=4, down=Behaviour())).surplus == 4
    assert decide(observed, ScalePolicy(paused=True, down=Behaviour())).surplus == 0
    assert decide(observed, ScalePolicy()).surplus == 0, "the window has not passed"
    assert decide(seen(95, 9), ScalePolicy(down=Behaviour())).surplus == 0


def test_a_limit_is_named_only_where_it_held_something_back() -> None:
    exactly = Behaviour(workers_per_minute=3)
    assert decide(seen(50, 2), ScalePolicy(up=exactly, max_workers=5)).limit == ""
    assert decide(seen(20, 5), ScalePolicy(down=exactly)).limit == ""
    assert decide(seen(80, 8), ScalePolicy(max_workers=5)).limit == "", "none is wanted"
    assert decide(seen(50, 5, host_room=0), ScalePolicy()).limit == ""
    pool = Pool(ScalePolicy(down=Behaviour(window_seconds=16.0)))
    pool.observe(25)
    pool.workers = 2
    assert pool.observe(15).limit == "", "no fewer are wanted, whatever was wanted before"


def test_a_paused_pool_stays_as_it_is_unless_it_is_deleted() -> None:
    policy = PoolConfig(paused="the database moves", min_workers=3).scale_policy
    few, many = decide(seen(90, 2), policy), decide(seen(0, 9), policy)
    assert {(one.desired - one.current, one.limit) for one in (few, many)} == {(0, "paused")}
    assert decide(seen(25, 3), policy).limit == ""
    assert decide(replace(seen(0, 9), deleted=True), policy).remove == 9


def test_a_deleted_pool_is_emptied_at_once_and_gets_no_worker() -> None:
    policy = ScalePolicy(min_workers=2, down=Behaviour(window_seconds=60.0, tolerance=0.5))
    gone = replace(seen(5, 3), deleted=True)
    decision = decide(gone, policy)
    assert (decision.remove, decision.winner) == (2, "pool-deleted")
    assert decide(replace(gone, workers=0, empty=0), policy).order == 0


def test_each_limit_is_remembered_until_the_size_changes() -> None:
    pool = Pool(ScalePolicy(max_workers=2, down=Behaviour(window_seconds=16.0)))
    first = ("max_workers",)
    limits = []
    for load in (30, 30, 5, 5):
        pool.observe(load)
        limits.append(pool.memory.limits)
    assert limits == [first, first, *[(*first, "down.window_seconds")] * 2]
    assert any(pool.observe(5).remove for _ in range(20))
    assert pool.observe(15).order == 1
    assert pool.memory.limits == ()


def test_of_a_window_only_what_may_still_count_is_remembered() -> None:
    """Parts of ten seconds, the oldest first, each with fewer workers than the one before."""
    pool = Pool(ScalePolicy(down=Behaviour(window_seconds=160.0)))
    pool.seconds = -1.0
    steps = []
    for load in (35, 25, 26, 15, 15, 27):
        pool.observe(load, after=5.0 if load != 35 else 1.0)
        steps.append(pool.memory.most)
    part = START_MS // 10_000
    assert steps == [
        ((part, 4),),
        ((part, 4),),
        ((part, 4), (part + 1, 3)),
        ((part, 4), (part + 1, 3)),
        ((part, 4), (part + 1, 3), (part + 2, 2)),
        ((part, 4), (part + 2, 3)),
    ]


def test_the_changes_of_a_part_of_a_minute_are_one() -> None:
    pool = Pool(ScalePolicy())
    pool.seconds = -1.0
    ordered = []
    for load, after in ((10, 1.0), (35, 1.0), (45, 1.0), (95, 10.0), (105, 60.0)):
        pool.observe(load, after=after)
        ordered.append(pool.memory.ordered)
    part = START_MS * 16 // 60_000
    together = (part, 5), (part + 3, 5)
    assert ordered[2:] == [together[:1], together, ((part + 19, 1),)]
