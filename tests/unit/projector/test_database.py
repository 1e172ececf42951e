"""How a connection to the views' database is set up."""

import sqlite3
from typing import Any, cast

import pytest

from projector.store import engines


def test_a_briefly_locked_file_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many that open a new one at once SQLite refuses some at once."""
    asked: list[str] = []

    def refuse_twice(_: object, setting: str) -> None:
        asked.append(setting)
        if len(asked) < 3:
            raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(engines, "_set_pragma", refuse_twice)
    engines._enable_wal(cast("Any", None))
    assert asked == ["journal_mode=WAL"] * 3
    asked.clear()
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        engines._enable_wal(cast("Any", None))
