"""What growth is expected of a load, and where none is."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.language.forecast import (
    AHEAD,
    DAY,
    KEPT,
    SKILL_MIN,
    STEP_MS,
    Forecast,
    LoadHistory,
    grows_soon,
    growth_within,
)

MONDAY = 1_767_571_200_000
"""2026-01-05, at midnight."""
HOUR = DAY // 24

Load = Callable[[int], float]
"""The load of a step since that Monday."""


def office(step: int) -> float:
    """From Monday to Friday a hundred from 8 to 16, with an hour each to come and to go."""
    day, hour = divmod(step / HOUR, 24)
    if day % 7 >= 5:
        return 2
    return 2 + 100 * min(max(hour - 8, 0), max(17 - hour, 0), 1)


def learnt(load: Load, days: float, *, seed: int = 1, noise: float = 1.0) -> LoadHistory:
    chance, history = random.Random(seed), LoadHistory()
    for step in range(round(days * DAY)):
        observed = max(round(load(step) + chance.gauss(0, noise)), 0)
        history.observe(MONDAY + step * STEP_MS, observed)
    return history


def forecast(history: LoadHistory) -> Forecast:
    found = history.forecast()
    assert found is not None
    return found


def growth(history: LoadHistory, minutes: float) -> int:
    found = history.forecast()
    return growth_within(found, found.ts, minutes * 60) if found else 0


def test_the_growth_of_a_morning_is_expected_before_it_begins() -> None:
    """A little more than usual, since some weeks had more."""
    history = learnt(office, 21 + 7.99 / 24)
    assert 90 <= growth(history, 60) <= 115
    assert 40 <= growth(history, 30) <= 65
    assert growth(history, 1) < 5
    assert forecast(history).skill > 0.7


def test_growth_is_not_expected_on_a_weekend_or_where_the_load_falls() -> None:
    assert growth(learnt(office, 19 + 8 / 24), 60) <= 4
    assert growth(learnt(office, 21 + 16 / 24), 60) == 0


def test_after_a_sunday_a_monday_begins_as_usual() -> None:
    """Nothing happened on Sunday: that day says little of how good the forecast is."""
    assert growth(learnt(office, 28 + 8 / 24), 60) > 90


def test_in_the_second_week_the_day_before_is_a_sample_too() -> None:
    """Of one sample only, chance could be taken for a season."""
    assert learnt(office, 7.9).forecast() is None
    assert growth(learnt(office, 8 + 8 / 24), 60) > 80


def test_a_load_of_another_level_grows_in_proportion() -> None:
    """But not by more than twice as much."""

    def risen(by: float) -> Load:
        return lambda step: office(step) * (by if step >= 28 * DAY else 1)

    usual = growth(learnt(risen(1), 28 + 8.5 / 24), 30)
    assert growth(learnt(risen(1.5), 28 + 8.9 / 24), 0.1) == 0
    assert growth(learnt(risen(0.2), 28 + 8.5 / 24), 30) < usual
    assert usual < growth(learnt(risen(1.9), 28 + 8.5 / 24), 30) < 2 * usual
    assert growth(learnt(risen(50), 28 + 8.5 / 24), 30) <= 2.2 * usual


def test_bursts_on_the_hour_are_expected_in_full_just_before() -> None:
    def bursts(step: int) -> float:
        return 200 if step % HOUR == 0 else 20

    history = learnt(bursts, 16 + HOUR / DAY)
    found = forecast(history)
    before = found.ts + STEP_MS - 30_000
    assert 165 <= growth_within(found, before, 31.0) <= 195
    assert growth_within(found, before, 29.0) < 30
    assert growth_within(found, before + 31_000, 31.0) == 0, "it is there"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_a_season_nothing_is_expected(seed: int) -> None:
    noisy = forecast(learnt(lambda _: 100, 30, seed=seed, noise=10))
    assert noisy.skill < SKILL_MIN
    assert (noisy.growth, noisy.least) == ((), ())
    chance, level = random.Random(seed), 1000.0

    def walk(_: int) -> float:
        nonlocal level
        level += chance.gauss(0, 10)
        return level

    assert forecast(learnt(walk, 30, seed=seed)).growth == ()


def test_a_season_that_has_ended_is_not_expected_for_long() -> None:
    def until(day: int) -> Load:
        return lambda step: office(step) if step < day * DAY else 2

    assert growth(learnt(until(30), 30 + 8 / 24), 60) > 50
    assert growth(learnt(until(30), 30 + 10 / 24), 60) < 20
    assert growth(learnt(until(30), 31 + 8 / 24), 60) == 0


def test_a_load_that_is_always_none_has_no_forecast() -> None:
    assert learnt(lambda _: 0, 20, noise=0).forecast() is None


def test_a_load_stays_until_the_next_one_and_the_highest_of_a_step_counts() -> None:
    """As if each had been observed many times."""
    once, often = LoadHistory(), LoadHistory()
    for day in range(20):
        for hour, load in ((0, 3), (8, 90), (8.01, 40), (17, 3)):
            once.observe(MONDAY + round((day * 24 + hour) * 3_600_000), load)
        for minute in range(24 * 60):
            hour = minute / 60
            load = 90 if hour == 8 else 40 if 8 < hour < 17 else 3
            often.observe(MONDAY + (day * 1440 + minute) * 60_000, load)
    now = MONDAY + 20 * 86_400_000 + 7 * 3_600_000
    once.observe(now, 3)
    often.observe(now, 3)
    assert once.forecast() == often.forecast()
    assert growth(once, 120) == 87


def test_a_clock_that_was_set_back_changes_no_step() -> None:
    history = learnt(office, 21 + 7.9 / 24)
    before = history.forecast()
    history.observe(MONDAY, 2)
    assert history.forecast() == before


def test_no_more_is_stored_than_is_of_use() -> None:
    history = learnt(office, 60)
    assert KEPT <= len(history._peaks) <= KEPT + DAY
    recent = learnt(lambda step: office(step + 20 * DAY), 0)
    for step in range(20 * DAY, 60 * DAY):
        recent.observe(MONDAY + step * STEP_MS, round(office(step)))
    assert forecast(recent).skill == pytest.approx(forecast(history).skill, abs=0.05)
    history.observe(MONDAY + 10 * 365 * 86_400_000, 5)
    assert len(history._peaks) <= KEPT + DAY


# ---- what is read of one --------------------------------------------------------------------

MADE = Forecast(MONDAY, 0.8, growth=(10, 30, 20, *(0,) * (AHEAD - 3)), least=(0, 25, 15))


@pytest.mark.parametrize(
    ("minutes", "within", "expected"),
    [
        (0, 300, 30),  # which may come a step earlier
        (0, 30, 1),
        (0, 600, 30),
        (0, 7200, 30),
        (4.5, 60, 6),
        (5, 150, 10),  # half of twenty
        (5, 300, 25),  # which may be relied on, as the step begins
        (10, 300, 0),
        (-5, 300, 0),
        (125, 300, 0),
    ],
)
def test_growth_counts_from_the_present_step_on(
    minutes: float, within: float, expected: int
) -> None:
    """In less than a step a part of it, apart from what may be relied on."""
    assert growth_within(MADE, MONDAY + int(minutes * 60_000), within) == expected


def test_who_is_about_to_grow_must_be_observed() -> None:
    assert grows_soon(MADE, MONDAY)
    assert not grows_soon(MADE, MONDAY + 2 * STEP_MS)
    assert not grows_soon(Forecast(MONDAY, 0.01), MONDAY)
    assert not grows_soon(None, MONDAY)


@given(
    st.lists(st.integers(-50, 500), max_size=AHEAD),
    st.integers(-STEP_MS, 30 * STEP_MS),
    st.floats(0, 10_000),
)
def test_it_is_never_negative(steps: list[int], ms: int, seconds: float) -> None:
    made = Forecast(MONDAY, 0.5, growth=tuple(steps), least=tuple(steps[:3]))
    assert growth_within(made, MONDAY + ms, seconds) >= 0
