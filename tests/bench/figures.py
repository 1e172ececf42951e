"""Figures of a benchmark: medians, spreads, ratios of the rounds of one run, and slopes.

A round measures everything that is compared, one after the other. A ratio is formed within each
round, so that a machine that is slower for a while slows both sides of it.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's t for an interval of 95 %, by degrees of freedom from 1."""


class Figure(Struct, frozen=True, kw_only=True):
    """One thing that was measured in every round, and its baseline in the same rounds.

    `target` and `aim` are those of the ratio where there is a baseline, else of the figure
    itself. `over`: whether the ratio is that of the figure to its baseline or the other way.
    """

    name: str
    unit: str
    ours: tuple[float, ...]
    compared_with: str = ""
    baseline: tuple[float, ...] = ()
    over: Literal["baseline", "ours"] = "baseline"
    better: Literal["more", "less"] = "more"
    target: float | None = None
    aim: float | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        """One for each round; a baseline of one value is that of all rounds."""
        baseline = self.baseline * len(self.ours) if len(self.baseline) == 1 else self.baseline
        pairs = zip(self.ours, baseline, strict=False)
        if self.over == "ours":
            return tuple(base / ours for ours, base in pairs)
        return tuple(ours / base for ours, base in pairs)

    @property
    def compared(self) -> float:
        """What the target is compared with."""
        return statistics.median(self.ratios or self.ours)

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None if there is none."""
        if self.target is None:
            return None
        more = self.better == "more"
        return self.compared >= self.target if more else self.compared <= self.target


class Breakdown(Struct, frozen=True, kw_only=True):
    """A cost by process, for each of the systems that were compared: medians of the rounds."""

    title: str
    unit: str
    rows: dict[str, dict[str, float]]


class Report(Struct, frozen=True, kw_only=True):
    """The result of one benchmark. `notes`: versions, sizes and what was left out."""

    name: str
    figures: tuple[Figure, ...]
    breakdowns: tuple[Breakdown, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    commit: str = ""
    date: str = ""
    machine: str = ""
    seconds: float = 0.0
    load: float = 0.0
    """The machine's load average before it: on a quiet one well below the number of cores."""


class Fit(Struct, frozen=True):
    """A slope and the half width of its 95 % interval."""

    slope: float
    half_width: float


def spread(values: Sequence[float]) -> str:
    """The median, and the lowest and highest value if there are several."""
    middle = number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({number(min(values))} - {number(max(values))})"


def number(value: float) -> str:
    """Three digits, or all those before the point."""
    if value and abs(value) < 100:
        return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:,.0f}"


def percentile(values: Sequence[float], percent: int) -> float:
    """Of at least two values, as `statistics.quantiles` interpolates them."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def growth(sizes: Sequence[float], costs: Sequence[float]) -> Fit:
    """The slope of costs by sizes on a log-log plot: 1 where a cost is proportional to a size.

    Least squares; the interval assumes errors that are independent and equally distributed.
    Raises ValueError for fewer than three points.
    """
    if len(sizes) < 3:
        raise ValueError("a slope with an interval needs at least three points")
    xs, ys = [math.log(x) for x in sizes], [math.log(y) for y in costs]
    slope, intercept = statistics.linear_regression(xs, ys)
    residuals = sum((y - slope * x - intercept) ** 2 for x, y in zip(xs, ys, strict=True))
    freedom = len(xs) - 2
    middle = statistics.fmean(xs)
    error = math.sqrt(residuals / freedom / sum((x - middle) ** 2 for x in xs))
    return Fit(slope, T_95[min(freedom, len(T_95)) - 1] * error)


def median_rows(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each key over the rounds."""
    return {key: statistics.median(row[key] for row in rounds) for key in rounds[0]}


def read_report(text: bytes) -> Report:
    """A report as `msgspec.json.encode` wrote it."""
    return msgspec.json.decode(text, type=Report)
