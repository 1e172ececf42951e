"""A database file, and waits of a recovery that tests without workers and gateways can skip."""

from pathlib import Path

import pytest

from projector.recovery.recovery import Recovery


@pytest.fixture
def views_url(tmp_path: Path) -> str:
    """Where one kind of database is enough."""
    return f"sqlite:///{tmp_path / 'views.db'}"


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
