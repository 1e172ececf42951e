"""What a run of the harness says of itself."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.report import Figures, left_undone

DONE = {"acknowledged": 1, "reads": 1, "received": 1, "faults": 1}


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("", []),
        ("acknowledged", ["no command was acknowledged"]),
        ("reads", ["no read was answered"]),
        ("received", ["no event was received"]),
        ("faults", ["no fault was done"]),
    ],
)
def test_a_run_that_did_nothing_has_not_passed(missing: str, said: list[str]) -> None:
    done: dict[str, Any] = {n: 0 if n == missing else count for n, count in DONE.items()}
    journal: Any = SimpleNamespace(counts={"acknowledged": done.pop("acknowledged")})
    assert left_undone(journal, Figures(**done)) == said
