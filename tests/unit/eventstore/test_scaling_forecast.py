"""`decide_scale` with a forecast: laid over the other rules, never below them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.language.forecast import Forecast
from eventstore.language.pool_config import PoolConfig
from eventstore.language.scale_policy import PRESETS, Behaviour, ScalePolicy
from eventstore.language.scaling import decide_scale
from eventstore.language.scaling_state import Memory, Observation
from tests.unit.eventstore.scaled_pool import START_MS, Pool, decide, seen

GROWS = Forecast(START_MS, 0.6, growth=(40,) * 24, least=(30,) * 24)
"""By forty agents within the next step."""
ON = ScalePolicy(forecast="on", start_seconds=300.0)


def expecting(load: int, workers: int, forecast: Forecast | None = GROWS) -> Observation:
    return replace(seen(load, workers), forecast=forecast)


def test_workers_are_ordered_for_the_growth_that_is_expected() -> None:
    decision = decide(expecting(20, 2), ON)
    assert (decision.winner, decision.order) == ("forecast", 4)
    assert decision.candidates == {"load": 2, "forecast": 6, "min-workers": 0}
    assert decide(expecting(0, 0), ON).order == 4


@pytest.mark.parametrize(
    ("more", "workers"),
    [
        ({"target_utilisation": 0.5}, 12),
        ({"buffer_slots": 30}, 9),
        ({"buffer_share": 0.5}, 9),
        ({"start_seconds": 148.0}, 4),
        ({"max_workers": 5}, 5),
    ],
)
def test_the_other_rules_apply_to_what_is_expected(more: dict[str, float], workers: int) -> None:
    assert decide(expecting(20, 2), replace(ON, **more)).desired == workers


def test_what_is_expected_is_what_comes_until_a_worker_has_started() -> None:
    """Also while the order has to wait for the next decision."""
    step = Forecast(START_MS, 0.6, growth=(51,) * 24, least=(0,) * 24)
    assert decide(expecting(0, 0, step), replace(ON, start_seconds=298.0)).order == 6


def test_what_was_expected_for_those_that_wait_is_kept_for_the_window_too() -> None:
    first, memory = decide_scale(expecting(30, 2), ON, Memory())
    assert first.desired == 7
    assert decide(seen(20, 7, seconds=100.0), ON, memory).desired == 7


def test_a_service_level_expects_as_much_and_its_spread() -> None:
    policy = ScalePolicy(service_level=0.99, start_seconds=300.0)
    calm, noisy = Memory(), Memory(ts=START_MS - 1, load=20, weight=1.0, spread=1.0)
    for memory, slots in ((calm, 60), (noisy, 80)):
        decision, _ = decide_scale(expecting(20, 2), replace(policy, forecast="on"), memory)
        assert decision.candidates["forecast"] * 10 >= slots
        assert decision.candidates["forecast"] >= decision.candidates["service-level"]


def test_growth_that_is_there_already_is_not_expected_twice() -> None:
    """The load grows by an agent each two seconds, as was forecast."""
    policy = ScalePolicy(service_level=0.99, start_seconds=60.0, max_workers=500)
    with_forecast = Pool(replace(policy, forecast="on"))
    without = Pool(policy)
    made = Forecast(START_MS, 0.9, growth=tuple(150 * n for n in range(1, 25)))
    for second in range(1, 1200):
        load = 100 + second // 2
        observed = replace(seen(load, with_forecast.workers, seconds=second), forecast=made)
        decision, with_forecast.memory = decide_scale(
            observed, with_forecast.policy, with_forecast.memory
        )
        with_forecast.workers = decision.desired
        without.observe(load)
    assert without.workers <= with_forecast.workers <= without.workers + 4


def test_only_records_what_it_would_have_called_for() -> None:
    decision = decide(expecting(20, 2), replace(ON, forecast="only"))
    assert (decision.winner, decision.desired) == ("load", 2)
    assert decision.candidates["forecast"] == 6
    assert "forecast" not in decide(expecting(20, 2), replace(ON, forecast="off")).candidates


@pytest.mark.parametrize(
    "forecast", [None, Forecast(START_MS, -0.2), Forecast(START_MS - 7_500_000, 0.9, (40,) * 24)]
)
def test_without_one_or_with_a_bad_or_an_old_one_nothing_is_expected(
    forecast: Forecast | None,
) -> None:
    assert "forecast" not in decide(expecting(20, 2, forecast), ON).candidates


def test_what_was_ordered_for_growth_is_kept_for_the_window_without_the_reserve() -> None:
    """It comes within a step, not as that begins. What is free for its spread goes sooner."""
    down = Behaviour(window_seconds=160.0)
    policy = replace(ON, service_level=0.99, down=down)
    noisy = Memory(ts=START_MS - 2_000, load=10, weight=1.0, spread=1.0, start_seconds=300.0)
    decision, memory = decide_scale(expecting(10, 1), policy, noisy)
    assert decision.desired > 6
    workers, desired = decision.desired, []
    for seconds in (15, 40, 150, 190):
        calm = replace(seen(10, workers, seconds=seconds), forecast=Forecast(START_MS, 0.0))
        memory = replace(memory, spread=0.0, trend=0.0)
        decision, memory = decide_scale(calm, policy, memory)
        desired.append(decision.desired)
    assert desired == [workers, 5, 5, 1]


Loads = st.integers(0, 500)
Growths = st.lists(st.integers(-100, 300), min_size=1, max_size=24)


@given(Loads, st.integers(0, 60), Growths, st.integers(0, 3_600), st.sampled_from(("a", "b")))
def test_it_never_removes_and_never_has_fewer(
    load: int, workers: int, growths: list[int], seconds: int, kind: str
) -> None:
    """And what was recorded decides the same again."""
    policy = PRESETS["proactive"] if kind == "a" else ON
    memory = Memory(ts=START_MS - 1, load=load, weight=0.5, spread=0.4, start_seconds=60.0)
    made = Forecast(START_MS - seconds * 1000, 0.5, growth=tuple(growths), least=tuple(growths))
    observed = expecting(load, workers, made)
    decision, after = decide_scale(observed, policy, memory)
    off, _ = decide_scale(observed, replace(policy, forecast="off"), memory)
    only, _ = decide_scale(observed, replace(policy, forecast="only"), memory)
    assert decision.desired >= off.desired
    assert (only.desired, only.winner) == (off.desired, off.winner)
    recorded = msgspec.json.encode((observed, memory))
    read = msgspec.json.decode(recorded, type=tuple[Observation, Memory])
    assert decide_scale(read[0], policy, read[1]) == (decision, after)
    assert len(msgspec.json.encode(after)) < 4096


def test_proactive_pools_have_one_and_a_setting_counts_instead() -> None:
    assert PoolConfig(preset="proactive").scale_policy.forecast == "on"
    assert PoolConfig(preset="proactive", forecast="only").scale_policy.forecast == "only"
    assert PoolConfig().scale_policy.forecast == "off"
    assert not PoolConfig().wants_forecast
    assert PoolConfig(forecast="only").wants_forecast
    assert PoolConfig(shadow={"q": {"preset": "proactive"}}).wants_forecast
