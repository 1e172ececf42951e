"""One picture of what was simulated: the load, the workers, and the longest waits over time.

It is drawn with matplotlib, which only this needs: `pip install "agent-muster[plot]"`.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import BinaryIO, Final

from eventstore.errors import ConfigurationError
from muster.simulation.ideal import Ideal
from muster.simulation.outcome import Curve, Outcome

INCHES: Final = (9.6, 7.2)
DOTS_PER_INCH: Final = 80
CALENDAR_SECONDS: Final = 1e8
"""Later times are of a calendar, earlier ones since some start."""
UNITS: Final = (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0), ("seconds", 1.0))


def require_matplotlib() -> None:
    """Raises `ConfigurationError` if it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            'a picture needs matplotlib: pip install "agent-muster[plot]"'
        ) from error


def draw(file: BinaryIO, ideal: Ideal, outcomes: Mapping[str, Outcome]) -> None:
    """Write the picture as PNG. `outcomes`: by the names that its legend has."""
    from matplotlib import rc_context

    with rc_context({"date.converter": "concise", "timezone": "UTC"}):
        _draw(file, ideal, outcomes)


def _draw(file: BinaryIO, ideal: Ideal, outcomes: Mapping[str, Outcome]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(INCHES, DOTS_PER_INCH, layout="constrained")
    load, workers, waits = figure.subplots(3, 1, sharex=True, height_ratios=(2, 3, 2))
    needed, curve = ideal.curve(ideal.workers), ideal.curve(ideal.load)
    unit, scale = _unit(curve)
    load.fill_between(_times(curve, scale), curve.values, step="post", color="0.75", linewidth=0)
    load.set_ylabel("agents")
    workers.step(_times(needed, scale), needed.values, "k--", linewidth=1, label="ideal")
    for name, outcome in outcomes.items():
        for axis, of_it, width in ((workers, outcome.workers, 1.0), (waits, outcome.longest, 0.6)):
            times = _times(of_it, scale)
            axis.step(times, of_it.values, where="post", linewidth=width, label=name)
    workers.set_ylabel("workers")
    labelled = workers.get_legend_handles_labels()
    figure.legend(*labelled, loc="outside upper left", ncols=6, frameon=False)
    waits.set_ylabel("longest wait, s")
    for axis in (load, workers, waits):
        axis.set_ylim(bottom=0)
        axis.margins(x=0)
        axis.grid(linewidth=0.3)
    waits.set_xlabel(unit)
    smaller = {"optimize": True}
    figure.savefig(file, format="png", metadata={"Software": None}, pil_kwargs=smaller)


def _unit(curve: Curve) -> tuple[str, float]:
    """The name of the time axis and its unit in seconds; 0: dates."""
    if curve.since > CALENDAR_SECONDS:
        return "", 0.0
    span = curve.part_seconds * len(curve.values)
    return next((unit for unit in UNITS if span >= 4 * unit[1]), UNITS[-1])


def _times(curve: Curve, scale: float) -> Sequence[float | datetime]:
    """When each of its parts starts."""
    starts = (curve.since + part * curve.part_seconds for part in range(len(curve.values)))
    if scale:
        return [at / scale for at in starts]
    return [datetime.fromtimestamp(at, UTC) for at in starts]
