"""A path that got slower is found, and noise is not taken for one."""

import tomllib

from tests.bench.flames import hottest
from tests.bench.keep import ROOM, ROOM_ABSOLUTE, as_toml, ratios_of, slower
from tests.bench.muster_system import Round

COMMITTED = {"returns": {"gateway": 10.0, "up": 0.01}}


def measured(**kinds: float) -> dict[str, dict[str, float]]:
    return {"returns": {"gateway": 10.0, "up": 0.01, **kinds}}


def test_what_is_as_it_was_is_not_slower() -> None:
    assert slower(COMMITTED, COMMITTED) == []
    assert slower(measured(gateway=5.0), COMMITTED) == []


def test_noise_is_not_slower_and_more_than_that_is() -> None:
    limit = 10.0 * ROOM + ROOM_ABSOLUTE
    assert slower(measured(gateway=limit - 0.01), COMMITTED) == []
    assert slower(measured(gateway=limit + 0.01), COMMITTED) == [("returns", "gateway")]


def test_what_costs_nearly_nothing_may_cost_twice_that() -> None:
    assert slower(measured(up=0.02), COMMITTED) == []
    assert slower(measured(up=0.5), COMMITTED) == [("returns", "up")]


def test_a_process_that_was_not_committed_or_not_measured_is_named() -> None:
    assert slower(measured(indexer=0.0), COMMITTED) == [("returns", "indexer")]
    assert slower({"returns": {"gateway": 10.0}}, COMMITTED) == [("returns", "up")]
    assert slower({}, COMMITTED) == [("returns", "gateway"), ("returns", "up")]


def test_a_ratio_is_the_median_over_rounds_by_all_of_the_bare_gateway() -> None:
    ours = [Round(1, 1, {"gateway": cost}) for cost in (300.0, 100.0, 200.0)]
    bare = [Round(1, 1, {"gateway": 60.0, "redis": 40.0})] * 3
    assert ratios_of(ours, bare) == {"gateway": 2.0}


def test_ratios_are_written_as_they_are_read() -> None:
    assert tomllib.loads(as_toml(COMMITTED)) == COMMITTED


def test_the_hottest_functions_are_those_with_most_samples_of_their_own() -> None:
    stacks = "main;serve;parse 3\nmain;serve 1\nmain;serve;parse;parse 6\n"
    assert hottest(stacks).splitlines()[1:] == ["  90.0%   90.0%  parse", "  10.0%  100.0%  serve"]
