"""What growth of a load must be expected: from the same times of the days and weeks before. Pure.

The method is that of seasonal quantiles: how a load went on from this time of the week in each of
the last weeks (at first, also from this time a day ago) is a sample of how it will go on now. Each
is scaled to the level of the last hours, and the upper part of them counts. So there is nothing to
fit, and a load that has changed its level is followed at once. (Hyndman and Athanasopoulos,
"Forecasting: Principles and Practice", 3rd edition: seasonal naive method, 5.2, and quantiles,
5.5.)

How good that is: the skill score of the mean of the samples relative to no forecast, by which a
load stays as it is (ibid., 5.9), over the last day. Where it is low, there is no season, or none
any more, and no growth is expected. A day on which nothing happened, such as a Sunday, proves
nothing: so the mean of the last week counts too, if only a little.
"""

from collections import deque
from collections.abc import Sequence
from statistics import fmean
from typing import Final

from msgspec import Struct

STEP_MS: Final = 300_000
DAY: Final = 86_400_000 // STEP_MS
"""Steps of a day."""
AHEAD: Final = 24
"""For so many steps the growth is expected."""
WEEKS: Final = tuple(weeks * 7 * DAY for weeks in (1, 2, 3, 4))
"""So many steps ago it was the same time of the week."""
SAMPLES_MIN: Final = 2
"""With fewer of them, that of a day ago is one, too."""
MOST: Final = 1.0
"""So large a share of the samples is not above the growth that is expected..."""
LEAST: Final = 0.25
"""...and so small a one below what may be relied on, such as work that begins on the hour."""
LEVEL: Final = 36
"""Over so many steps the level of a load is averaged..."""
PRIOR: Final = 0.25
"""...as if it had had, for as long, this share of what is usual: a small level says little."""
SCALE_MAX: Final = 2.0
"""What grows so many times as much as it did in a sample has nothing to do with it."""
TESTED: Final = 6
"""So many steps ahead the skill is measured."""
SKILL_MIN: Final = 0.1
"""Chance hardly ever has it without a season."""
WEEK_WEIGHT: Final = 0.1
"""Of an average day of the last week, next to the last day."""
KEPT: Final = WEEKS[-1] + LEVEL + 7 * DAY + TESTED
KEPT_MS: Final = KEPT * STEP_MS


class Forecast(Struct, frozen=True, omit_defaults=True):
    """How much a load is expected to grow."""

    ts: int
    """The time in milliseconds at which the step began in which it was made."""
    skill: float
    """Over the last day. 1: it was always right; 0: as good as none; below 0: worse."""
    growth: tuple[int, ...] = ()
    """From that step to each of the next ones, in agents; empty where the skill is too low."""
    least: tuple[int, ...] = ()
    """What may be relied on of that."""


def growth_within(forecast: Forecast | None, ts: int, seconds: float) -> int:
    """How many agents more are expected within so long after a time in milliseconds.

    It may come a step earlier than usual. Of the growth in less than a step a part is expected.
    """
    if forecast is None or not forecast.growth:
        return 0
    within_ms = int(seconds * 1000)
    share = min(within_ms / STEP_MS, 1.0)
    growth = _highest(forecast, forecast.growth, ts, within_ms + STEP_MS)
    return max(round(share * growth), _highest(forecast, forecast.least, ts, within_ms))


def _highest(forecast: Forecast, growth: tuple[int, ...], ts: int, within_ms: int) -> int:
    """Above that of the step of that time."""
    steps = (0, *growth)
    now, last = (ts - forecast.ts) // STEP_MS, (ts + within_ms - forecast.ts) // STEP_MS
    return max(steps[now : last + 1]) - steps[now] if 0 <= now < len(steps) else 0


def grows_soon(forecast: Forecast | None, ts: int) -> bool:
    """Whether growth is expected until there is another forecast."""
    return growth_within(forecast, ts, STEP_MS / 1000) > 0


class LoadHistory:
    """The highest load in each step of the last weeks: about 10,000 numbers."""

    def __init__(self) -> None:
        self._peaks: list[int] = []
        """Of each step, the last of which is not over."""
        self._step = 0
        """The number of the last step since 1970."""
        self._load = 0
        self._wrong: deque[tuple[float, float]] = deque([(0.0, 0.0)], maxlen=7 * DAY + 1)
        """The sums up to each step of the squares of what a forecast, and none, was wrong by."""
        self._tested = 0
        """The last step that is in them."""

    def observe(self, ts: int, load: int) -> None:
        """A load at a time in milliseconds. It stays until the next one."""
        step = ts // STEP_MS
        if not self._peaks:
            self._step, self._peaks = step, [load]
        self._peaks += [self._load] * min(step - self._step, KEPT)
        self._step = max(self._step, step)
        self._peaks[-1] = max(self._peaks[-1], load)
        self._load = load
        if len(self._peaks) > KEPT + DAY:
            del self._peaks[:-KEPT]

    def forecast(self) -> Forecast | None:
        """From the step of the last load on; None before one could have been made for a day."""
        self._test()
        if len(self._wrong) <= DAY:
            return None
        ts, skill = self._step * STEP_MS, self._skill()
        if skill < SKILL_MIN:
            return Forecast(ts, skill)
        samples = self._samples(len(self._peaks) - 1, range(1, AHEAD + 1))
        most, least = (
            tuple(round(_quantile(of_step, share)) for of_step in samples)
            for share in (MOST, LEAST)
        )
        return Forecast(ts, skill, most, least)

    def _skill(self) -> float:
        now, day, week = self._wrong[-1], self._wrong[-1 - DAY], self._wrong[0]
        weight = WEEK_WEIGHT * DAY / (len(self._wrong) - 1)
        wrong, grown = (
            end - of_day + weight * (end - of_week)
            for end, of_day, of_week in zip(now, day, week, strict=True)
        )
        return round(1 - wrong / grown, 3) if grown else 0.0

    def _test(self) -> None:
        """Compare each step of the last week that is over with what was expected of it."""
        first = self._step - len(self._peaks) + 1
        for step in range(max(self._tested + 1, self._step - 7 * DAY), self._step):
            self._tested, made = step, step - TESTED - first
            if samples := self._samples(made, (TESTED,)):
                growth = self._peaks[step - first] - self._peaks[made]
                wrong, grown = self._wrong[-1]
                wrong += (growth - fmean(samples[0])) ** 2
                self._wrong.append((wrong, grown + growth**2))

    def _samples(self, made: int, steps: Sequence[int]) -> list[list[float]]:
        """How the load grew within so many steps, at each similar time; none if too few are known.

        `made`: the index of the step from which on.
        """
        peaks = self._peaks
        starts = [made - lag for lag in WEEKS if made - lag >= LEVEL]
        if len(starts) < SAMPLES_MIN:
            starts = [made - DAY, *starts]
        usual = fmean(peaks[max(made - WEEKS[0], 0) : made + 1 : 12]) if starts[0] >= LEVEL else 0
        if len(starts) < SAMPLES_MIN or not usual:
            return []
        level = self._level(made, usual)
        scaled = [(at, min(level / self._level(at, usual), SCALE_MAX)) for at in starts]
        return [[scale * (peaks[at + n] - peaks[at]) for at, scale in scaled] for n in steps]

    def _level(self, end: int, usual: float) -> float:
        return fmean(self._peaks[end - LEVEL : end]) + PRIOR * usual


def _quantile(samples: Sequence[float], share: float) -> float:
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
