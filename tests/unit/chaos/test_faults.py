"""What faults say of themselves: only what was done is told and counted."""

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.faults import FAULTS, Scene, processes

NOBODY = 2**22 + 1
"""Above what the kernel gives out as the id of a process."""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("worker_killed", "0 of 2 workers"),
        ("workers_killed", "0 of 2 workers"),
        ("zygote_killed", "0 of 1"),
        ("gateway_killed", "gateway-1 did not run"),
        ("gateway_paused", "gateway-1 did not run"),
        ("worker_paused", "a worker did not run"),
    ],
)
async def test_a_fault_without_a_target_says_so(
    fault: str, said: str, monkeypatch: pytest.MonkeyPatch
):
    """Whom it would have hit had just ended, by another fault of the round or by itself."""
    monkeypatch.setattr(processes, "LEASE_SECONDS", 0.01)
    role = SimpleNamespace(name="gateway-1", pid=0, send=lambda _: False)
    system: Any = SimpleNamespace(
        workers=lambda: [NOBODY, NOBODY], zygotes=lambda: [NOBODY], kinds=lambda _: [role]
    )
    nothing: Any = None
    told: list[str] = []
    counted: list[str] = []
    scene = Scene(system, nothing, nothing, Random(1), told.append, counted.append)
    await FAULTS[fault].run(scene)
    assert (told, counted) == ([said], [])
