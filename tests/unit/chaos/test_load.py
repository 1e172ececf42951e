"""The load continues, or its failure is reported."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.chaos.asking import Answer
from tests.chaos.commands import Desk
from tests.chaos.journal import Journal
from tests.chaos.load import Load
from tests.waiting import until


class Silent(Desk):
    """A desk whose calls all fail."""

    error: Exception | None = None

    async def ask(self, random: Random, method: str, path: str, *args: Any, **more: Any) -> Answer:
        if self.error is None:
            await asyncio.sleep(3600)
        raise self.error or TimeoutError


async def spawn(load: Load) -> None:
    await load.spawn(Random(1), "steady").carry_out()


async def stopped(folder: Path, error: Exception | None) -> list[str]:
    """What a load says that had clients and a command under way, and was stopped."""
    journal = Journal(folder / "journal.jsonl")
    desk = Silent(["-"], journal, lambda: 0.0)
    desk.error = error
    load = Load(desk, 1)
    load.start()
    load.start_command(spawn(load))
    if error is not None:
        for name in ("(reader)", "(Task-"):
            await until(lambda name=name: any(name in one for one in load.failures), what=name)
    load.cancel()
    await load.stop(1.0)
    journal.close()
    return load.failures


async def test_a_load_that_is_stopped_has_not_failed(tmp_path: Path):
    assert await stopped(tmp_path, None) == []


async def test_a_client_that_fails_is_reported(tmp_path: Path):
    """Else the rest of the run would break a system without load."""
    found = await stopped(tmp_path, KeyError("agent_id"))
    assert any("(reader): KeyError('agent_id')" in one for one in found)
    assert all("KeyError('agent_id')" in one for one in found)


class Refusing(Desk):
    """A desk of which every answer is this one."""

    answer = Answer(0)

    async def ask(self, random: Random, method: str, path: str, *args: Any, **more: Any) -> Answer:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (Answer(200, []), 0),
        (Answer(0, error="ClientConnectorError"), 0),
        (Answer(503, {"type": "views-unavailable"}), 0),
        (Answer(503, {"type": "redis-unreachable"}), 1),
        (Answer(503, {"type": "log-missing"}), 1),
    ],
)
async def test_reads_continue_without_redis(
    tmp_path: Path, answer: Answer, found: int, monkeypatch: pytest.MonkeyPatch
):
    """They are promised to, from the views; only without those they are refused."""
    monkeypatch.setattr("tests.chaos.load.READ_SECONDS", (0.0, 0.0))
    journal = Journal(tmp_path / "journal.jsonl")
    desk = Refusing(["-"], journal, lambda: 0.0)
    desk.answer = answer
    load = Load(desk, 1)
    reading = asyncio.create_task(load._read(Random(1)))
    await until(lambda: load.reads, what="a read")
    reading.cancel()
    await asyncio.wait({reading})
    journal.close()
    assert len(desk.offences[:1]) == found
