"""A path that got slower is found, and noise is not taken for one."""

import tomllib

from tests.bench.flames import hottest
from tests.bench.keep import ROOM, ROOM_OF_SUM, as_toml, ratios_of, slower
from tests.bench.muster_system import Round

COMMITTED = {"returns": {"gateway": 10.0, "up": 0.01}}


def measured(**kinds: float) -> dict[str, dict[str, float]]:
    return {"returns": {"gateway": 10.0, "up": 0.01, **kinds}}


def test_what_is_as_it_was_is_not_slower() -> None:
    assert slower(COMMITTED, COMMITTED) == []
    assert slower(measured(gateway=5.0), COMMITTED) == []


def test_noise_is_not_slower_and_more_than_that_is() -> None:
    limit = 10.0 * ROOM + 10.01 * ROOM_OF_SUM
    assert slower(measured(gateway=limit - 0.01), COMMITTED) == []
    assert slower(measured(gateway=limit + 0.01), COMMITTED) == [("returns", "gateway")]


def test_what_costs_nearly_nothing_may_cost_a_part_of_the_sum() -> None:
    assert slower(measured(up=0.5), COMMITTED) == []
    assert slower(measured(up=0.6), COMMITTED) == [("returns", "up")]


def test_a_process_that_was_not_committed_or_not_measured_is_named() -> None:
    assert slower(measured(indexer=0.0), COMMITTED) == [("returns", "indexer")]
    assert slower({"returns": {"gateway": 10.0}}, COMMITTED) == [("returns", "up")]
    assert slower({}, COMMITTED) == [("returns", "gateway"), ("returns", "up")]


def test_a_ratio_is_the_minimum_over_rounds_by_that_of_the_bare_gateway() -> None:
    ours = [Round(1, 1, {"gateway": cost}) for cost in (300.0, 150.0, 200.0)]
    bare = [Round(1, 1, {"gateway": cost, "redis": 40.0}) for cost in (60.0, 80.0)]
    found = {"returns": ours, "starts": ours[:1], "bare": bare}
    assert ratios_of(found) == {"returns": {"gateway": 1.5}, "starts": {"gateway": 3.0}}


def test_ratios_are_written_as_they_are_read() -> None:
    assert tomllib.loads(as_toml(COMMITTED)) == COMMITTED


def test_the_hottest_functions_are_those_with_most_samples_of_their_own() -> None:
    stacks = "main;serve;parse 3\nmain;serve 1\nmain;serve;parse;parse 6\n"
    assert hottest(stacks).splitlines()[1:] == ["  90.0%   90.0%  parse", "  10.0%  100.0%  serve"]
