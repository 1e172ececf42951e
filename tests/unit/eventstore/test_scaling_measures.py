"""`decide_scale`: what is measured of a load, and provided for; and that it is pure."""

import math
import random
from statistics import NormalDist

import msgspec
import pytest
from msgspec.structs import replace

from eventstore.language.scale_policy import Behaviour, ScalePolicy
from eventstore.language.scaling import decide_scale
from eventstore.language.scaling_state import Memory, Observation
from tests.unit.eventstore.scaled_pool import START_MS, Pool, decide, seen

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


def test_a_pool_without_load_comes_to_have_no_workers() -> None:
    """While there may still be an agent within fifty minutes, it keeps one."""
    pool = Pool(replace(AHEAD, down=Behaviour(window_seconds=60.0)))
    for load in steady(random.Random(5), 10):
        pool.observe(load)
    sizes = [(pool.observe(0, after=60.0), pool.workers)[1] for _ in range(120)]
    gone = sizes.index(0)
    assert 30 < gone < 90
    assert set(sizes[gone:]) == {0}
    assert sizes[gone - 1] == 1


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
