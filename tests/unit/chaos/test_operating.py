"""The operator of a run withdraws what it has asked for, and notes when a pool was paused."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from tests.chaos import operating
from tests.chaos.asking import API, Answer
from tests.chaos.commands import Desk
from tests.chaos.configuration import PLACED
from tests.chaos.faults import FAULTS, Scene
from tests.chaos.journal import Journal
from tests.chaos.load import Load
from tests.chaos.operating import Operator
from tests.chaos.orders import STATE_LOST
from tests.waiting import until


class Gateway(Desk):
    """A desk that plays a gateway with one cordoned worker of each kind, and a lost state."""

    asked: list[str]

    def worker(self, name: str, reason: str) -> dict[str, str]:
        uncordoned = any(name in one for one in self.asked)
        row = {"worker_id": name, "pool_name": PLACED, "status": "active"}
        return {**row, "cordoned": "" if uncordoned else reason}

    async def ask(self, random: Random, method: str, path: str, *args: Any, **more: Any) -> Answer:
        path = path.removeprefix(API)
        if method == "POST":
            self.asked.append(path)
            return Answer(200, {})
        if path.startswith("/workers"):
            rows = [self.worker("ours", "chaos-7"), self.worker("theirs", "consolidation")]
            return Answer(200, {"workers": rows})
        lost = [{"agent_id": name, "pool_name": PLACED, "reason": STATE_LOST} for name in "ab"]
        return Answer(200, {"agents": lost})


class Server:
    """A Redis with two logs; `generation`: of the pool's, from the second time on."""

    def __init__(self, generation: int | None) -> None:
        self.generation, self.times = generation, 0

    @contextmanager
    def client(self) -> Iterator[Any]:
        if self.generation is None:
            raise redis.ConnectionError
        self.times += 1
        generation = self.generation if self.times > 1 else 1
        found = [[b"%d" % generation, b"%d" % (self.times * 10)], [b"1", b"%d" % (self.times + 4)]]
        pipeline = SimpleNamespace(hmget=lambda *_: None, execute=lambda: found)
        yield SimpleNamespace(pipeline=lambda: nullcontext(pipeline))


@contextmanager
def operator(folder: Path, server: Any = None) -> Iterator[tuple[Operator, Gateway, Load]]:
    journal = Journal(folder / "journal.jsonl")
    desk = Gateway(["-"], journal, lambda: 0.0)
    desk.asked = []
    load = Load(desk, 1)
    system: Any = SimpleNamespace(folder=folder, redis=server)
    yield Operator(system, desk, load), desk, load
    journal.close()


async def test_in_the_end_its_own_cordons_are_withdrawn(tmp_path: Path) -> None:
    """Those of leaders are for them to end; and what has a copy is for the projector to return."""
    with operator(tmp_path) as (working, desk, load):
        load.states.copied.add("b")
        assert await working.finish(Random(1)) == []
    asked = set(desk.asked)
    assert {one for one in asked if one.startswith("/workers")} == {"/workers/ours/uncordon"}
    assert {one for one in asked if "restart" in one} == {f"/a/restart?pool_name={PLACED}"}
    assert {f"/pools/{PLACED}/resume", f"/pools/{PLACED}/replace/cancel"} < asked


@pytest.mark.parametrize(("generation", "noted"), [(1, True), (2, False), (None, False)])
async def test_a_pause_is_noted_if_its_log_is_still_the_same(
    tmp_path: Path, generation: int | None, noted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operating, "FOLLOW_SECONDS", 0.0)
    monkeypatch.setattr(operating, "PAUSED_SECONDS", (0.0, 0.0))
    with operator(tmp_path, Server(generation)) as (working, desk, load):
        load.client("pauses", working._pause)
        await until(lambda: any("resume" in one for one in desk.asked), what="a pause that is over")
        await load.stop(1.0)
    file = tmp_path / "paused.jsonl"
    assert file.exists() is noted
    if noted:
        found = json.loads(file.read_text().splitlines()[0])
        assert (found["generation"], found["seq"], found["until_seq"]) == (1, 10, 20)
        assert (found["catalogue_seq"], found["catalogue_until"]) == (5, 6)


async def test_states_are_not_deleted_where_redis_does_not_answer() -> None:
    system: Any = SimpleNamespace(workers=list, redis=Server(None))
    nothing: Any = None
    noted: list[str] = []
    scene = Scene(system, nothing, nothing, Random(1), noted.append, noted.append)
    await asyncio.wait_for(FAULTS["states_deleted"].run(scene), 5)
    assert noted == ["not done: "]
