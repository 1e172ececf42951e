"""What a recovery need not wait for, where a test plays all workers and gateways itself."""

import pytest

from projector.recovery.recovery import Recovery


async def _at_once(_: Recovery) -> None:
    pass


@pytest.fixture
def no_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker runs that could have renewed its lease."""
    monkeypatch.setattr(Recovery, "_wait_for_leases", _at_once)


@pytest.fixture
def no_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gateway serves that could report what it acknowledged."""
    monkeypatch.setattr(Recovery, "_wait_for_reports", _at_once)
