"""Tests of the scribe: `pytest` in this folder runs them. They need no server."""

from pathlib import Path

import pytest

from muster.testing import run
from scribe.agent import Scribe


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages of one test are not those of another."""
    monkeypatch.chdir(tmp_path)


def test_every_line_is_written_and_then_it_waits(capsys: pytest.CaptureFixture[str]) -> None:
    agent = run(Scribe, input={"lines": ["one", "two"]}, until=lambda agent: agent.idle)
    assert agent.outcome == "requested"
    assert capsys.readouterr().out == "wrote one\nwrote two\n"
    assert agent.logged("scribe.ready", written=0)
    assert agent.logged("scribe.done")


def test_spilt_ink_is_a_crash() -> None:
    agent = run(Scribe, input={"lines": ["one", "spill"]})
    assert agent.outcome == "crashed"
    assert agent.error.message == "the ink is spilt"
