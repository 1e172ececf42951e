"""Which ends of agents the harness expects, and which it does not."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.ends import ended, judge_ends

EXPECTED = [
    ("p", "a", "terminated", "requested", "{}"),
    ("p", "b", "terminated", "pool-deleted", '{"linger":0.5}'),
    ("p", "c", "terminated", "completed", '{"do":"complete","after":1.5}'),
    ("p", "d", "running", "", "{}"),
]


def read(folder: Path, *rows: tuple[str, ...]) -> list[str]:
    """What is found in views with these agents."""
    file = folder / "views.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE agents (pool_name, agent_id, status, reason, input)")
        database.executemany("INSERT INTO agents VALUES (?, ?, ?, ?, ?)", rows)
    return list(judge_ends(ended(f"sqlite:///{file}")))


def test_agents_that_end_as_requested_are_no_offence(tmp_path: Path):
    assert read(tmp_path, *EXPECTED) == []


@pytest.mark.parametrize(
    ("status", "reason", "recorded"),
    [
        ("failed", "restart-budget-spent", "{}"),
        ("terminated", "idle", "{}"),
        ("terminated", "pending-timeout", "{}"),
        ("terminated", "handed-over", "{}"),
        ("terminated", "completed", '{"do":"raise-in-run"}'),
    ],
)
def test_an_end_that_was_not_requested_is_found(
    tmp_path: Path, status: str, reason: str, recorded: str
):
    """Judged only by its log it would be valid."""
    [found] = read(tmp_path, *EXPECTED, ("p", "x", status, reason, recorded))
    assert found == f"agent x in p ended without a request: {status}, {reason}"
