"""`muster simulate`: a simulated pool, what is possible at best, files of arrivals, the command."""

import json
import random
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore.language.scale_policy import PRESETS, Behaviour, ScalePolicy
from muster.__main__ import main
from muster.cli.simulation import results
from muster.simulation.arrivals import Arrival, FileError, Lives, Load, arrivals_of, counts_of
from muster.simulation.ideal import ideal_of
from muster.simulation.outcome import Curve, Outcome, curve_of
from muster.simulation.pool import SimulatedPool

AT_ONCE = Behaviour(window_seconds=0.0)


def simulated(arrivals: list[Arrival], policy: ScalePolicy, start_seconds: float = 10.0) -> Outcome:
    pool = SimulatedPool(policy, start_seconds, 0.0, 1.0)
    return pool.run(Load(lambda: iter(arrivals)), lambda *_: None)


def ideal_worker_seconds(arrivals: list[Arrival], slots: int, start_seconds: float) -> float:
    return ideal_of(arrivals, slots, start_seconds).worker_seconds


def test_who_finds_no_slot_waits_for_the_start_of_a_worker() -> None:
    """The third shares no worker; the fourth finds the slot that the first has left."""
    arrivals = [(0.0, 20.0), (1.0, 20.0), (1.0, 20.0), (31.0, 5.0)]
    outcome = simulated(arrivals, ScalePolicy(slots=2))
    assert list(outcome.waits) == [9.0, 10.0, 10.0]
    assert (outcome.arrivals, outcome.starts, outcome.stops) == (4, 2, 0)
    assert [outcome.wait_seconds(share) for share in (0.25, 0.5, 0.75, 1)] == [0, 9, 10, 10]
    assert outcome.worker_seconds == pytest.approx(36.0 + 35.0)


def test_slots_that_become_free_go_to_those_that_have_waited_the_longest() -> None:
    arrivals = [(0.0, 3.0), (1.0, 3.0), (2.0, 3.0)]
    outcome = simulated(arrivals, ScalePolicy(slots=1, max_workers=1))
    assert list(outcome.waits) == [10.0, 12.0, 14.0]


def test_the_fullest_worker_with_room_gets_the_next_agent() -> None:
    """So that the other becomes empty, and is stopped."""
    arrivals = [(0.0, 30.0), (0.0, 30.0), (0.0, 100.0), (12.0, 100.0)]
    outcome = simulated(arrivals, ScalePolicy(slots=2, down=AT_ONCE))
    assert (outcome.starts, outcome.stops) == (2, 2)
    assert outcome.worker_seconds == pytest.approx(40.0 + 112.0)


def test_a_worker_is_stopped_after_the_window_and_started_again() -> None:
    arrivals = [(0.0, 10.0), (100.0, 10.0)]
    policy = ScalePolicy(slots=1, down=Behaviour(window_seconds=16.0))
    outcome = simulated(arrivals, policy)
    assert (outcome.starts, outcome.stops, outcome.turns) == (2, 1, 2)
    assert simulated(arrivals, ScalePolicy(slots=1)).turns == 0


def test_who_knows_all_arrivals_needs_full_workers_for_the_start_and_the_window() -> None:
    """From the first arrival to the last end: the first start and the last window count nothing."""
    arrivals = [(0.0, 100.0), (0.0, 100.0)]
    assert ideal_worker_seconds(arrivals, 2, 10.0) == pytest.approx(100, abs=4)
    assert ideal_worker_seconds(arrivals, 1, 10.0) == pytest.approx(200, abs=8)
    apart = [(0.0, 10.0), (2000.0, 10.0)]
    assert ideal_worker_seconds(apart, 1, 10.0) == pytest.approx(310 + 20, abs=8)
    assert ideal_worker_seconds([], 1, 10.0) == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_on_a_noisy_plateau_nobody_waits_and_turns_are_rare(seed: int) -> None:
    """An agent a second comes, for 200 seconds; the start of a worker takes thirty."""
    chance, at, arrivals = random.Random(seed), 0.0, []
    while at < 7_200:
        at += chance.expovariate(1.0)
        arrivals.append((at, chance.expovariate(1 / 200)))
    outcome = simulated(arrivals, PRESETS["proactive"], 30.0)
    first = sum(at < 40 for at, _ in arrivals)
    assert len(outcome.waits) <= first, "a pool that begins empty can only let them wait"
    assert outcome.turns <= 7_200 / 300
    assert outcome.worker_seconds < 1.15 * ideal_worker_seconds(arrivals, 10, 30.0)


# ---- files ----------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "arrivals.csv"
    path.write_text(text)
    return path


def listed(arrivals: Iterator[Arrival]) -> list[Arrival]:
    return [(at, life) for at, life in arrivals]


def test_arrivals_are_times_or_seconds_in_any_order(tmp_path: Path) -> None:
    path = written(tmp_path, "3\n1\n2.5\n")
    assert listed(arrivals_of(path, Lives(7.0)).arrive()) == [(1.0, 7.0), (2.5, 7.0), (3.0, 7.0)]
    path = written(tmp_path, "at,tokens\n1970-01-01 00:00:05.25,4\n1970-01-01T00:00:02+00:00,8\n")
    lives = Lives(column="tokens", scale=0.5)
    assert listed(arrivals_of(path, lives).arrive()) == [(2.0, 4.0), (5.25, 2.0)]


def test_counts_arrive_within_their_interval_the_same_for_a_seed(tmp_path: Path) -> None:
    path = written(tmp_path, "at,value\n0,1000\n100,0\n200,3000\n")
    load = counts_of(path, 2.0, 5, Lives(7.0))
    found = listed(load.arrive())
    assert found == listed(load.arrive())
    assert found != listed(counts_of(path, 2.0, 6, Lives(7.0)).arrive())
    first, last = (sum(low <= at < low + 100 for at, _ in found) for low in (0, 200))
    assert len(found) == first + last
    assert first == pytest.approx(2000, abs=200)
    assert last == pytest.approx(6000, abs=400)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1\nsoon\n", r"line 2: expected a time such as .*, got 'soon'"),
        ("at,tokens\n1,2\n2\n", r"line 3: expected a number in column 2, got no such column"),
        ("at,tokens\n1,-2\n", r"line 2: expected a number from 0 to 1e12, got -2"),
        ("at,other\n1,2\n", r"has no column 'tokens', but at, other"),
        ("1,2\n", r"has no column 'tokens', but no header"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path: Path, text: str, why: str) -> None:
    lives = Lives(column="" if "soon" in text else "tokens")
    with pytest.raises(FileError, match=why):
        arrivals_of(written(tmp_path, text), lives)


@pytest.mark.parametrize("text", ["", "0,1\n", "0,1\n0,2\n", "5,1\n4,2\n"])
def test_counts_need_intervals(tmp_path: Path, text: str) -> None:
    with pytest.raises(FileError, match="two rows or more, each with a later time"):
        counts_of(written(tmp_path, text), 1.0, 1, Lives())


# ---- the command ----------------------------------------------------------------------------


def simulate(folder: Path, *words: str, policy: str = 'preset = "proactive"') -> int:
    (folder / "p.toml").write_text(policy)
    (folder / "q.toml").write_text("agents_per_worker = 10")
    written(folder, "".join(f"{second}\n" for second in range(300)))
    policies = ("--policy", f"{folder}/p.toml", "--policy", f"{folder}/q.toml")
    arrivals = ("--arrivals", f"{folder}/arrivals.csv", "--agent-seconds", "60")
    return main(["simulate", *policies, *arrivals, "--start-seconds", "30", *words])


def test_policies_are_compared_in_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["POLICY", "p", "q"]
    assert lines[-1].startswith("300 arrivals; ")


def test_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(tmp_path, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    ahead, usual = document["policies"]
    assert (ahead["name"], usual["name"]) == ("p", "q")
    assert ahead["wait_seconds"].keys() == {"p50", "p99", "p999", "max"}
    assert ahead["wait_seconds"]["p99"] < usual["wait_seconds"]["p99"]
    assert ahead["worker_hours"] > usual["worker_hours"] > 0
    hours = document["ideal"]["worker_hours"]
    assert ahead["slack"] == pytest.approx(ahead["worker_hours"] / hours - 1)


def test_and_as_a_picture(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert simulate(tmp_path, "-o", "png") == 0
    assert capfdbinary.readouterr().out.startswith(b"\x89PNG\r\n")


def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as terminal:
        terminal.setattr("muster.terminal.render.at_terminal", lambda: True)
        assert simulate(tmp_path, "-o", "png") == 2
    assert "write it to a file: " in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert simulate(tmp_path, "-o", "png") == 2
    assert 'pip install "agent-muster[plot]"' in capsys.readouterr().err


def test_the_curve_of_a_picture_has_the_highest_value_of_each_part() -> None:
    curve = Curve(0.0, 1000.0)
    curve.step(10.5, 3)
    curve.step(10.7, 1)
    curve.step(20.5, 0)
    assert curve.values[9:13] == [0, 3, 1, 1]
    assert curve.values[20:22] == [1, 0]
    longer = curve_of(array("i", range(5000)), 0.0, 2.0)
    assert (longer.values[0], longer.values[-1], longer.part_seconds) == (4, 4999, 10)


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ('preset = "lazy"', "p.toml: preset: expected reactive or proactive"),
        ("speed = 1", "p.toml: Object contains unknown field `speed`"),
        ("speed =", "p.toml: Invalid value"),
    ],
)
def test_a_policy_that_is_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str, why: str
) -> None:
    assert simulate(tmp_path, policy=policy) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--scale 2", "--scale: only with --counts"),
        ("--seed 2", "--seed: only with --counts"),
        ("--start-seconds soon", "--start-seconds: 'soon' is not a number of seconds"),
        ("--seconds-scale 0", "--seconds-scale: expected a number above 0, got 0"),
        ("--policy p.toml", "--policy: two are named p"),
        ("--policy five.toml", "workers of 5 and 10 slots cannot be compared: use --agents-per"),
        ("--policy none.toml", "none.toml: No such file or directory"),
    ],
)
def test_a_flag_that_means_nothing_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "five.toml").write_text("agents_per_worker = 5")
    assert simulate(tmp_path, *words.split()) == 2
    assert why in capsys.readouterr().err


def test_a_file_without_arrivals_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="has no arrivals"):
        arrivals_of(written(tmp_path, "at\n"), Lives())


def test_a_slack_that_rounds_to_nothing_has_no_sign() -> None:
    outcome = simulated([(0.0, 20.0)], ScalePolicy(slots=2))
    row = results._row("p", outcome, outcome.worker_seconds * 1.0004)
    assert (row["slack"] < 0, "0.0%" in results._cells("p", row)) == (True, True)
