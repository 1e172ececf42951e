"""What the harness says of usage that a gateway answers wrongly."""

from random import Random
from typing import Any

from msgspec.structs import asdict

from tests.chaos.judging.entries import of_row
from tests.chaos.judging.usage import times_of
from tests.chaos.usage import compare, expected, span
from tests.histories import POOLS, History


def answered(times: Any, since: int, until: int) -> list[dict[str, Any]]:
    rows = expected(times, since, until, of_projects=True)
    return [
        {"pool_name": pool, "project_id": project, **row} for (pool, project), row in rows.items()
    ]


def test_only_a_wrong_answer_is_an_offence() -> None:
    entries = [of_row(asdict(row)) for row in History(3).write(200)]
    times = {pool: times_of(entry for entry in entries if entry.pool == pool) for pool in POOLS}
    since, until = span(Random(1), entries)
    wanted = expected(times, since, until, of_projects=True)
    right = answered(times, since, until)
    assert [*compare("x", wanted, right)] == []
    right[0]["slot_seconds"] += 0.001
    [offence] = compare("x", wanted, right)
    assert "slot_seconds" in offence
    assert [*compare("x", wanted, right[1:])]
