"""`decide_scale`: what the rules call for, what limits hold back, what is remembered."""

import math
import random
from datetime import datetime
from statistics import NormalDist

import msgspec
import pytest
from msgspec.structs import replace

from eventstore.language.pool_config import PoolConfig
from eventstore.language.scale_policy import PRESETS, Behaviour, BehaviourSettings, ScalePolicy
from eventstore.language.scaling import Decision, Memory, Observation, decide_scale
from eventstore.language.schedules import Schedule

START_MS = 1_794_999_960_000
"""The beginning of a minute."""


def seen(load: int, workers: int, *, seconds: float = 0.0, **more: int) -> Observation:
    """A pool of ten slots a worker, with its agents in as few workers as possible."""
    held = min(load, workers * 10)
    empty = workers - -(-held // 10)
    return Observation(
        ts=START_MS + int(seconds * 1000),
        held=held,
        waiting=load - held,
        capacity=workers * 10,
        workers=workers,
        empty=empty,
        **more,  # type: ignore[arg-type]  # none of them is the bool
    )


def decide(observed: Observation, policy: ScalePolicy, memory: Memory | None = None) -> Decision:
    return decide_scale(observed, policy, memory or Memory())[0]


class Pool:
    """A pool whose workers start at once."""

    def __init__(self, policy: ScalePolicy) -> None:
        self.policy, self.memory, self.workers, self.seconds = policy, Memory(), 0, 0.0

    def observe(self, load: int, *, after: float = 1.0) -> Decision:
        self.seconds += after
        observed = seen(load, self.workers, seconds=self.seconds)
        decision, self.memory = decide_scale(observed, self.policy, self.memory)
        self.workers = decision.desired
        return decision


# ---- rules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "target", "workers"),
    [
        (0, 1.0, 0),
        (1, 1.0, 1),
        (10, 1.0, 1),
        (11, 1.0, 2),
        (15, 1.0, 2),
        (80, 0.8, 10),
        (81, 0.8, 11),
    ],
)
def test_so_many_workers_that_the_load_takes_the_target_of_their_slots(
    load: int, target: float, workers: int
) -> None:
    decision = decide(seen(load, 0), ScalePolicy(target_utilisation=target))
    assert (decision.order, decision.winner) == (workers, "load")


@pytest.mark.parametrize(("slots", "share", "wanted"), [(5, 0.0, 3), (0, 0.5, 3), (5, 0.6, 4)])
def test_a_buffer_calls_for_free_slots(slots: int, share: float, wanted: int) -> None:
    policy = ScalePolicy(buffer_slots=slots, buffer_share=share)
    decision = decide(seen(20, 2), policy)
    assert (decision.wanted, decision.winner) == (wanted, "buffer")
    assert decision.candidates == {"load": 2, "buffer": wanted, "min-workers": 0}


def test_the_rule_that_calls_for_most_wins() -> None:
    policy = ScalePolicy(min_workers=3, buffer_slots=5)
    assert decide(seen(20, 0), policy).winner == "buffer"
    assert decide(seen(1, 0), policy).winner == "min-workers"
    assert decide(seen(1, 0), policy).wanted == 3


def test_capacity_that_is_not_usable_is_replaced() -> None:
    """Four agents in a stalled worker, one full one, six that wait."""
    observed = Observation(ts=1, held=14, waiting=6, capacity=14, workers=2)
    assert decide(observed, ScalePolicy()).order == 1
    assert decide(replace(observed, capacity=24, workers=3), ScalePolicy()).order == 0


def test_isolated_agents_need_workers_of_their_own() -> None:
    assert decide(seen(15, 2, additional=2), ScalePolicy()).order == 2


def at(time: str) -> float:
    return datetime.fromisoformat(f"{time}+00:00").timestamp() - START_MS / 1000


BERLIN = (
    Schedule(cron="0 8 * * 1-5", zone="Europe/Berlin", min_workers=4),
    Schedule(cron="0 18 * * *", zone="Europe/Berlin", min_workers=1),
)


@pytest.mark.parametrize(
    ("time", "wanted"),
    [
        ("2026-11-30T06:58:59", 1),
        ("2026-11-30T06:59:00", 4),
        ("2026-11-30T16:58:59", 4),
        ("2026-11-30T16:59:00", 1),
        ("2026-12-05T12:00:00", 1),
        ("2026-07-01T06:00:00", 4),
        ("2026-07-01T05:58:59", 1),
    ],
)
def test_a_schedule_calls_for_workers_that_have_started_by_its_time(time: str, wanted: int) -> None:
    """A worker takes a minute; 30 November 2026 is a Monday, and 5 December a Saturday."""
    policy = ScalePolicy(schedules=BERLIN, start_seconds=60.0)
    decision = decide(seen(0, 0, seconds=at(time)), policy)
    assert (decision.wanted, decision.winner) == (wanted, "schedule")
    assert decide(seen(45, 0, seconds=at(time)), policy).winner == "load"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"cron": "0 8 * *"}, "cron: expected five fields"),
        ({"cron": "0 0 8 * * 1"}, "cron: expected five fields"),
        ({"cron": "60 * * * *"}, "cron: Bad minute in '60"),
        ({"cron": "0 8 30 2 *"}, "cron: Bad day-of-month"),
        ({"cron": "0 8 * * *", "zone": "Mars/Base"}, "zone: expected an IANA time zone"),
        ({"cron": "0 8 * * *", "zone": "../x"}, "zone: expected an IANA time zone"),
    ],
)
def test_a_schedule_that_is_none_is_refused(settings: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Schedule(min_workers=1, **settings)


def test_a_schedule_may_not_call_for_more_than_the_maximum() -> None:
    with pytest.raises(ValueError, match=r"min_workers \(4\) of a schedule .* max_workers \(3\)"):
        PoolConfig(max_workers=3, schedules=BERLIN)
    assert PoolConfig(max_workers=4, schedules=BERLIN).scale_policy.schedules == BERLIN


# ---- limits ---------------------------------------------------------------------------------


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


def test_workers_are_added_once_every_observation_of_the_window_needed_them() -> None:
    pool = Pool(ScalePolicy(up=Behaviour(window_seconds=16.0)))
    pool.workers = 1
    pool.observe(5)
    assert pool.observe(25).limit == "up.window_seconds"
    assert [pool.observe(15).order for _ in range(20)].index(1) in {15, 16}


@pytest.mark.parametrize(("load", "removed"), [(181, 0), (180, 1), (150, 4), (10, 18), (0, 20)])
def test_half_of_the_tolerance_is_left(load: int, removed: int) -> None:
    """Of twenty workers, two; nothing is left without load."""
    policy = ScalePolicy(down=Behaviour(tolerance=0.1))
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


# ---- what is measured -----------------------------------------------------------------------

AHEAD = ScalePolicy(service_level=0.99, start_seconds=30.0)


def steady(chance: random.Random, minutes: int) -> list[int]:
    """The load of a pool where one agent comes a second, and stays for five minutes."""
    ends: list[float] = []
    loads = []
    for second in range(minutes * 60):
        while chance.random() < 0.5:
            ends.append(second + 300)
        ends = [end for end in ends if end > second]
        loads.append(len(ends))
    return loads


def test_slots_are_kept_free_for_the_spread_of_the_load() -> None:
    """About two come and go a second: within 32 seconds a standard deviation is about ten."""
    pool = Pool(replace(AHEAD, down=Behaviour(window_seconds=60.0)))
    free = []
    for load in steady(random.Random(5), 30):
        decision = pool.observe(load)
        free.append(10 * pool.workers - load)
    assert decision.winner == "service-level"
    assert 10 < sum(free[900:]) / 900 < 50
    assert sum(one < 0 for one in free[900:]) == 0


@pytest.mark.parametrize("weight", [0.05, 0.4, 1.0])
@pytest.mark.parametrize(("trend", "spread"), [(0.0, 2.0), (0.5, 2.0), (-0.5, 2.0), (2.0, 1.0)])
@pytest.mark.parametrize("start_seconds", [3.0, 98.0])
def test_so_many_slots_that_few_enough_find_none(
    weight: float, trend: float, spread: float, start_seconds: float
) -> None:
    """Calculated in another way: of what grows within a start, the part above the free slots."""
    memory = Memory(
        ts=START_MS, load=500, weight=weight, trend=trend * (weight + 1 / 600),
        spread=spread * (weight + 1 / 600), start_seconds=start_seconds,
    )  # fmt: skip
    policy = ScalePolicy(service_level=0.99, slots=1, max_workers=10_000)
    called = decide(seen(500, 50), policy, memory).candidates["service-level"] - 50 + 500 - 500
    horizon = start_seconds + 2
    observed = 1 + 600 * -math.log(1 - min(weight, 0.999))
    deviation = math.sqrt(spread * horizon * (1 + horizon / observed))
    above = called - max(trend, 0) * horizon
    steps = [above + deviation * step / 1000 for step in range(8_000)]
    density = NormalDist(0, deviation).pdf
    lost = sum((at - above) * density(at) for at in steps) * deviation / 1000
    arrivals = max(spread / 2, trend) * horizon
    assert lost <= 0.01 * arrivals
    assert lost + (1.01 - NormalDist(0, deviation).cdf(above)) >= 0.01 * arrivals, "no slot less"


def test_samples_are_a_second_apart_and_have_all_that_wants_a_slot() -> None:
    _, memory = decide_scale(seen(15, 1), AHEAD, Memory())
    assert (memory.ts, memory.load) == (START_MS, 15)
    _, early = decide_scale(seen(25, 1, seconds=0.999), AHEAD, memory)
    assert (early.ts, early.load, early.growths) == (START_MS, 15, ())
    _, later = decide_scale(seen(25, 1, seconds=1.0), AHEAD, memory)
    assert (later.ts, later.load, later.growths) == (START_MS + 1000, 25, (10,))


@pytest.mark.parametrize(
    ("growths", "growth", "counted"),
    [
        ((), 1, 1),
        ((), 3, 2),
        ((), -3, -2),
        ((), 20, 2),
        ((), 21, 0),
        ((4, 4, 4, 4), 12, 12),
        ((4, 4, 4, 4), -13, -12),
        ((4, 4, 4, 4), 120, 12),
        ((4, 4, 4, 4), 121, 0),
        ((9, 9, 0, 0), 8, 8),
        ((9, 9, 0, 0), 30, 27),
    ],
)
def test_a_change_counts_as_far_as_it_is_usual(
    growths: tuple[int, ...], growth: int, counted: int
) -> None:
    memory = Memory(ts=START_MS, load=500, growths=growths)
    _, after = decide_scale(seen(500 + growth, 50, seconds=2.0), AHEAD, memory)
    part = 1 - math.exp(-2 / 600)
    assert after.weight == pytest.approx(part)
    assert after.trend == pytest.approx(counted / 2 * part)
    assert after.spread == pytest.approx(counted * counted / 2 * part)


def test_what_was_measured_before_counts_less_with_time() -> None:
    """By half after `ln 2` times ten minutes."""
    memory = Memory(ts=START_MS, load=500, weight=0.5, trend=0.25, spread=0.75)
    seconds = 600 * math.log(2)
    _, after = decide_scale(seen(500, 50, seconds=seconds), AHEAD, memory)
    found = (after.weight, after.trend, after.spread)
    assert found == pytest.approx((0.75, 0.125, 0.375), rel=1e-4)


def test_what_grows_steadily_is_provided_for() -> None:
    pool = Pool(AHEAD)
    for second in range(120):
        pool.observe(second)
    assert 10 * pool.workers >= 120 + 32


def test_one_burst_is_no_trend() -> None:
    pool = Pool(AHEAD)
    pool.observe(0)
    assert {pool.observe(200).desired for _ in range(60)} == {20}


def test_the_start_of_a_worker_is_measured_a_slow_one_at_once() -> None:
    def after(*starts: int) -> float:
        memory = Memory()
        for number, start_ms in enumerate(starts):
            observed = seen(5, 1, seconds=number, start_ms=start_ms)
            _, memory = decide_scale(observed, AHEAD, memory)
        return memory.start_seconds

    assert after() == 0.0
    assert after(0) == 30.0
    assert after(40_000) == 40.0
    assert after(10_000) == pytest.approx(26.0)
    assert after(10_000, 26_000, 90_000) == 90.0


# ---- pure and bounded -----------------------------------------------------------------------


def test_the_same_arguments_give_the_same_and_the_memory_stays_small() -> None:
    """Over a day of a load that varies, each time from what was recorded."""
    chance = random.Random(3)
    behaviour = Behaviour(window_seconds=600.0, tolerance=0.05, percent_per_minute=50)
    pool = Pool(ScalePolicy(service_level=0.99, max_workers=500, up=behaviour, down=behaviour))
    load, largest = 100, 0
    for _ in range(20_000):
        load = max(load + chance.randint(-9, 9) + (chance.random() < 0.01) * 200, 0)
        load = min(load, 3_000)
        pool.seconds += chance.choice((0.3, 1.0, 2.0, 30.0))
        observed = seen(load, pool.workers, seconds=pool.seconds)
        recorded = msgspec.json.encode((observed, pool.memory))
        decision, pool.memory = decide_scale(observed, pool.policy, pool.memory)
        read = msgspec.json.decode(recorded, type=tuple[Observation, Memory])
        assert decide_scale(read[0], pool.policy, read[1]) == (decision, pool.memory)
        pool.workers = decision.desired
        largest = max(largest, len(recorded))
    assert largest < 4096


# ---- settings -------------------------------------------------------------------------------


def test_a_pool_without_a_preset_is_reactive_with_its_earlier_window() -> None:
    policy = PoolConfig(empty_worker_seconds=7.0, min_workers=1, max_workers=9).scale_policy
    assert policy == ScalePolicy(min_workers=1, max_workers=9, down=Behaviour(window_seconds=7.0))


def test_settings_count_before_those_of_the_preset() -> None:
    down = BehaviourSettings(tolerance=0.2)
    config = PoolConfig(preset="proactive", down=down, buffer="25%", agents_per_worker=4)
    policy = config.scale_policy
    assert policy.service_level == PRESETS["proactive"].service_level
    assert policy.down == Behaviour(window_seconds=300.0, tolerance=0.2)
    assert (policy.buffer_slots, policy.buffer_share, policy.slots) == (0, 0.25, 4)
    none = PoolConfig(preset="proactive", service_level=0, target_utilisation=0.5)
    assert (none.scale_policy.service_level, none.scale_policy.target_utilisation) == (0, 0.5)
    window = PoolConfig(down=BehaviourSettings(window_seconds=0.0), buffer=3).scale_policy
    assert (window.down.window_seconds, window.buffer_slots) == (0.0, 3)
