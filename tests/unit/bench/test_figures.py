"""The statistics of benchmarks: a wrong ratio would hide a path that got slower."""

import msgspec
import pytest

from tests.bench.figures import Figure, Report, growth, number, percentile, read_report, spread


def figure(**changes: object) -> Figure:
    plain = {
        "name": "rate",
        "unit": "/s",
        "ours": (10.0, 30.0, 20.0),
        "baseline": (10.0, 10.0, 5.0),
    }
    return msgspec.convert({**plain, **changes}, Figure)


def test_a_ratio_is_formed_within_each_round() -> None:
    assert figure().ratios == (1.0, 3.0, 4.0)
    assert figure(over="ours").ratios == (1.0, 1 / 3, 0.25)
    assert figure().compared == 3.0


def test_a_baseline_of_one_value_is_that_of_every_round() -> None:
    assert figure(baseline=(10.0,)).ratios == (1.0, 3.0, 2.0)


@pytest.mark.parametrize(
    ("better", "target", "reached"),
    [("more", 3.0, True), ("more", 3.1, False), ("less", 3.0, True), ("less", 2.9, False)],
)
def test_a_target_is_reached_by_the_median(better: str, target: float, reached: bool) -> None:
    assert figure(better=better, target=target).reached is reached


def test_a_figure_without_a_target_is_neither_reached_nor_missed() -> None:
    assert figure().reached is None


def test_a_figure_without_a_baseline_is_compared_itself() -> None:
    assert figure(baseline=(), target=20.0).reached is True
    assert figure(baseline=(), target=20.1).reached is False


def test_a_spread_has_the_median_and_both_ends() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2.00 (1.00 - 3.00)"
    assert spread([1234.5]) == "1,234"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.0123, "0.0123"), (1.005, "1.00"), (12.34, "12.3"), (1e6, "1,000,000")],
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_percentiles_are_within_the_values() -> None:
    assert percentile(list(range(101)), 99) == 99
    assert percentile([1.0, 2.0], 50) == 1.5


def test_the_slope_of_what_is_proportional_is_one() -> None:
    sizes = [10, 20, 40, 80]
    fit = growth(sizes, [3 * size for size in sizes])
    assert fit.slope == pytest.approx(1)
    assert fit.half_width == pytest.approx(0, abs=1e-6)


def test_the_slope_of_a_square_is_two_and_noise_widens_its_interval() -> None:
    fit = growth([10, 20, 40, 80], [100 * 1.1, 400 * 0.9, 1600 * 1.1, 6400 * 0.9])
    assert fit.slope == pytest.approx(2, abs=0.1)
    # t(0.975, 2 degrees) = 4.30, times the standard error of the slope
    assert fit.half_width == pytest.approx(0.352, abs=0.001)


def test_a_slope_needs_three_points() -> None:
    with pytest.raises(ValueError, match="three points"):
        growth([1, 2], [1, 2])


def test_a_report_reads_as_it_was_written() -> None:
    report = Report(name="accept", figures=(figure(target=1.0),), notes=("redis 9",))
    assert read_report(msgspec.json.encode(report)) == report
