"""What is captured is restored after each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.workers.captured import Captured
from workers.output import pump


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output looks for old parts of lines more often, and tests need not wait for that."""
    assert pump.TICK_SECONDS * 2 < 1.0, "within a second they appear"
    monkeypatch.setattr(pump, "TICK_SECONDS", 0.05)


@pytest.fixture
def captured(tmp_path: Path) -> Iterator[Captured]:
    made = Captured(tmp_path)
    yield made
    made.stop()
