"""`muster simulate` of policies with a forecast."""

import json
from pathlib import Path

import pytest

from eventstore.language.forecast import AHEAD, STEP_MS, Forecast, LoadHistory
from eventstore.language.scale_policy import ScalePolicy
from muster.__main__ import main
from muster.simulation.arrivals import Load
from muster.simulation.outcome import Outcome
from muster.simulation.pool import SimulatedPool

ARRIVALS = [(at, 50.0) for at in (0.0, 100.0, 900.0, 900.0, 1000.0)]


def simulated(policy: ScalePolicy, counted: float) -> Outcome:
    pool = SimulatedPool(policy, 10.0, 0.0, 1.0, counted)
    return pool.run(Load(lambda: iter(ARRIVALS)), lambda _: None)


def test_what_comes_before_the_figures_begin_is_counted_apart() -> None:
    everything = simulated(ScalePolicy(slots=1), 0.0)
    counted = simulated(ScalePolicy(slots=1), 500.0)
    assert everything.before is None
    assert counted.before is not None
    assert (counted.arrivals, counted.before.arrivals) == (3, 2)
    assert list(counted.waits) == [10.0, 10.0]
    assert list(counted.before.waits) == [10.0]
    for name in ("starts", "stops", "turns", "worker_seconds"):
        parts = getattr(counted, name) + getattr(counted.before, name)
        assert parts == pytest.approx(getattr(everything, name))


def test_a_pool_learns_its_load_and_uses_what_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two agents come at the fifteenth minute."""
    observed: dict[int, int] = {}

    def observe(_: LoadHistory, ts: int, load: int) -> None:
        observed[ts // STEP_MS] = max(observed.get(ts // STEP_MS, 0), load)

    made = Forecast(0, 0.9, growth=(0, 0, 2, *(0,) * (AHEAD - 3)), least=(0, 0, 2))
    monkeypatch.setattr(LoadHistory, "observe", observe)
    monkeypatch.setattr(LoadHistory, "forecast", lambda _: made)
    assert list(simulated(ScalePolicy(slots=1, forecast="on"), 500.0).waits) == []
    assert len(simulated(ScalePolicy(slots=1, forecast="only"), 500.0).waits) == 2
    assert observed == {0: 1, 1: 0, 2: 0, 3: 2}
    observed.clear()
    simulated(ScalePolicy(slots=1), 500.0)
    assert observed == {}


@pytest.fixture
def short_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.cli.simulation.simulate.FIRST_DAYS", 500 / 86_400)


def simulate(folder: Path, policy: str, *words: str) -> int:
    (folder / "p.toml").write_text(policy)
    (folder / "q.toml").write_text("")
    (folder / "arrivals.csv").write_text("".join(f"{at}\n" for at, _ in ARRIVALS))
    policies = ("--policy", f"{folder}/p.toml", "--policy", f"{folder}/q.toml")
    arrivals = ("--arrivals", f"{folder}/arrivals.csv", "--agent-seconds", "50")
    return main(["simulate", *policies, *arrivals, *words])


@pytest.mark.usefixtures("short_days")
def test_the_first_days_of_all_policies_and_of_the_ideal_are_shown_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As soon as one of them has a forecast, so that all can be compared."""
    assert simulate(tmp_path, 'preset = "proactive"', "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    for row in (*found["policies"], found["ideal"]):
        first = row["first_14_days"]
        assert first.keys() <= row.keys()
        assert first["worker_hours"] > 0
    assert [row["arrivals"] for row in found["policies"]] == [3, 3]
    assert [row["first_14_days"]["arrivals"] for row in found["policies"]] == [2, 2]
    least, of_first = found["ideal"]["worker_hours"], found["ideal"]["first_14_days"]
    assert simulate(tmp_path, "", "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert "first_14_days" not in found["policies"][0]
    total = least + of_first["worker_hours"]
    assert found["ideal"] == {"worker_hours": pytest.approx(total)}


def test_in_a_table_too_unless_all_is_among_the_first_days(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    assert simulate(tmp_path, 'forecast = "on"') == 0
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[-1].split()[0]) == (5, "5")
    request.getfixturevalue("short_days")
    assert simulate(tmp_path, 'forecast = "on"') == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("p, first 14 days")
    assert (len(lines), lines[-1].split()[0]) == (7, "3")


def test_a_wrong_kind_of_forecast_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(tmp_path, 'forecast = "maybe"') == 2
    assert "p.toml: forecast: expected off, on or only" in capsys.readouterr().err
