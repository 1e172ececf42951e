"""`decide_scale`: what each rule calls for, and which settings say so."""

from datetime import datetime

import pytest
from msgspec.structs import replace

from eventstore.language.pool_config import PoolConfig
from eventstore.language.scale_policy import PRESETS, Behaviour, BehaviourSettings, ScalePolicy
from eventstore.language.scaling_state import Observation
from eventstore.language.schedules import Schedule
from tests.unit.eventstore.scaled_pool import START_MS, decide, seen


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
