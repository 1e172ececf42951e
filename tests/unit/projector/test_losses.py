"""What is reported as lost after a recovery, and how `muster recover` prints it."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from eventstore.recovery.loss_reports import AGENT_HELD, LossReport
from muster.__main__ import main
from muster.cli.maintenance import recover
from projector.recovery import recovery
from projector.recovery.losses import LostCommand, find_lost
from projector.recovery.rewrite import RecoveredLog
from projector.store.rows import Position

AT = Position("p", 1, 10)


def reported(kind: str, agent_id: str, seq: int) -> LossReport:
    return LossReport(reporter="r", kind=kind, agent_id=agent_id, generation=1, seq=seq)


def named(*reports: LossReport, known: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    return [(one.kind, one.agent_id) for one in find_lost(AT, {1: 1}, known, reports)]


def test_a_recorded_agent_is_not_lost_though_its_claim_is() -> None:
    """It is started again, or has ended."""
    assert named(reported(AGENT_HELD, "a", 11), known=("a",)) == []
    assert named(reported(AGENT_HELD, "a", 11)) == [(AGENT_HELD, "a")]


def test_an_agent_whose_spawn_is_lost_is_named_once() -> None:
    assert named(reported("spawn", "a", 11), reported(AGENT_HELD, "a", 13)) == [("spawn", "a")]


def test_an_agent_whose_spawn_is_not_reported_is_named_by_its_worker() -> None:
    lost = named(
        reported("terminate", "a", 14), reported(AGENT_HELD, "a", 13), reported("spawn", "saved", 9)
    )
    assert lost == [(AGENT_HELD, "a"), ("terminate", "a")]


# ---- as it is printed --------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *unsaved: LostCommand, **figures: int) -> str:
    one = RecoveredLog(pool="p", reason="gone", from_generation=1, generation=2, seq=10,
                       known_seq=14, unsaved=unsaved, **figures)  # fmt: skip
    recover._print_result([one], Namespace(output=None))
    return capsys.readouterr().out


def test_numbers_and_nouns_agree(capsys: pytest.CaptureFixture[str]) -> None:
    one = LostCommand(kind="spawn", agent_id="a", generation=1, seq=11)
    text = said(capsys, one, agents=1, workers=1)
    assert "1 thing could not be saved" in text
    assert "1 agent, 0 of them" in text
    assert "1 worker lost" in text
    assert "ran:" not in text
    assert "2 things could not be saved" in said(capsys, one, one)


def test_an_agent_that_only_a_worker_reported_is_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(capsys, LostCommand(kind=AGENT_HELD, agent_id="a", generation=1, seq=11))
    assert "ran: a worker ran this agent, and it is not in the recovered log" in text
    assert AGENT_HELD not in text


def test_an_interrupted_recovery_says_that_the_logs_stay_closed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recovery, "recover", interrupted)
    views = tmp_path / "views.db"
    views.touch()
    asked = [
        "recover",
        "--redis-url",
        "redis://127.0.0.1:1",
        "--database-url",
        f"sqlite:///{views}",
    ]
    assert main(asked) == 130
    assert "stay closed until `muster recover` is run again" in capsys.readouterr().err
