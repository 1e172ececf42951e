"""What faults report: only what they did is printed and counted."""

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.faults import FAULTS, Scene, processes

NO_SUCH_PID = 2**22 + 1
"""Above the largest process id of the kernel."""


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
    """Its target had just ended, by another fault of the round or by itself."""
    monkeypatch.setattr(processes, "LEASE_SECONDS", 0.01)
    role = SimpleNamespace(name="gateway-1", pid=0, send=lambda _: False)
    system: Any = SimpleNamespace(
        workers=lambda: [NO_SUCH_PID, NO_SUCH_PID],
        zygotes=lambda: [NO_SUCH_PID],
        kinds=lambda _: [role],
    )
    nothing: Any = None
    noted: list[str] = []
    counted: list[str] = []
    scene = Scene(system, nothing, nothing, Random(1), noted.append, counted.append)
    await FAULTS[fault].run(scene)
    assert (noted, counted) == ([said], [])
