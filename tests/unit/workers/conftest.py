"""What is captured is restored after each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.workers.captured import Captured


@pytest.fixture
def captured(tmp_path: Path) -> Iterator[Captured]:
    made = Captured(tmp_path)
    yield made
    made.stop()
