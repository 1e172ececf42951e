"""`muster tail` of streams that were trimmed prints from the archive what it lacks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from eventstore.language.agent_commands import Terminate
from muster.__main__ import main
from muster.cli.events.tail import TailOptions, read_events
from tests.integration.gateway.trimming import trimmed, trimming
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.pools import ORIGIN, TestPool
from tests.waiting import until


class Record:
    """A log of two pools, of each of which one event is in Redis."""

    def __init__(self, stage: Stage, pools: dict[str, TestPool], last: int) -> None:
        self.stage, self.pools, self.last = stage, pools, last

    async def tail(self, *, archive: bool = True, **options: Any) -> list[str]:
        chosen = TailOptions(
            redis_url=self.stage.redis_url,
            database_url=self.stage.database_url if archive else "",
            **options,
        )
        return [f"{event.pool}:{event.seq}" async for event in read_events(chosen)]


@pytest.fixture
async def record(redis_url: str, tmp_path: Path) -> AsyncIterator[Record]:
    async with open_stage(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as stage:
        pools = {name: await stage.pool(name) for name in ("alpha", "beta")}
        async with trimming(stage):
            for pool in pools.values():
                ids = [(await pool.spawn()).agent_id for _ in range(8)]
                await stage.act(pool, ids[0], Terminate(reason="enough"))
            await stage.settle()
            for name in pools:
                await trimmed(stage, name)
            yield Record(stage, pools, 10)


def positions(pool: str, first: int, last: int) -> list[str]:
    return [f"{pool}:{seq}" for seq in range(first, last + 1)]


async def test_tail_prints_everything_from_the_start(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.cli.events.streams.CHUNK", 3)
    events = await record.tail(start="0")
    assert sorted(events) == sorted(
        [*positions("catalogue", 1, 2), *positions("alpha", 1, 10), *positions("beta", 1, 10)]
    )


async def test_tail_starts_at_any_event_of_the_archive(record: Record) -> None:
    for seq in range(1, record.last + 1):
        assert await record.tail(start=f"alpha:{seq}") == positions("alpha", seq, 10)


async def test_tail_goes_back_into_the_archive_for_the_last_of_a_kind(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.cli.events.streams.CHUNK", 3)
    asked = await record.tail(count=2, types=("agent.requested",), pools=("alpha",))
    assert asked == positions("alpha", 7, 8)


async def test_tail_says_what_it_cannot_print_without_a_database(
    record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await record.tail(archive=False, start="0", pools=("alpha",)) == ["alpha:10"]
    assert "alpha: events before 10 are in the archive only" in capsys.readouterr().err


async def test_a_delayed_tail_prints_what_was_trimmed_meanwhile(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its terminal was stopped with Ctrl-S, say."""
    printed: list[str] = []
    blocked = asyncio.Event()

    async def follow() -> None:
        options = TailOptions(
            redis_url=record.stage.redis_url,
            database_url=record.stage.database_url,
            pools=("alpha",),
            start="alpha:10",
            follow=True,
        )
        async for event in read_events(options):
            printed.append(f"{event.pool}:{event.seq}")
            if event.seq == 11:
                await blocked.wait()

    pool = record.pools["alpha"]
    task = asyncio.ensure_future(follow())
    try:
        await until(lambda: printed == ["alpha:10"])
        await pool.spawn()
        await until(lambda: printed == positions("alpha", 10, 11))
        for _ in range(5):
            await pool.spawn()
        await trimmed(record.stage, "alpha")
        blocked.set()
        await until(lambda: len(printed) == 7)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert printed == positions("alpha", 10, 16)


async def test_tail_delayed_before_it_followed_prints_what_was_trimmed_meanwhile(
    record: Record,
) -> None:
    """It has read only the last event of the stream when it is stopped."""
    follows = TailOptions(
        redis_url=record.stage.redis_url,
        database_url=record.stage.database_url,
        pools=("alpha",),
        count=1,
        follow=True,
    )
    async with asyncio.timeout(10), aclosing(read_events(follows)) as events:
        printed = [(await anext(events)).seq]
        for _ in range(6):
            await record.pools["alpha"].spawn()
        await trimmed(record.stage, "alpha")
        while printed[-1] < 16:
            printed.append((await anext(events)).seq)
    assert printed == list(range(10, 17))


def test_an_unreachable_database_is_one_line(
    redis_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It is asked only for what was trimmed; the last events are printed from Redis."""

    async def trimmed_log() -> None:
        async with open_stage(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as stage:
            pool = await stage.pool()
            async with trimming(stage):
                await stage.catalogue.join_host("h", "box", 1, ORIGIN)
                for _ in range(3):
                    await pool.spawn()
                await trimmed(stage)

    asyncio.run(trimmed_log())
    unreachable = ["--redis-url", redis_url, "--database-url", "postgresql://127.0.0.1:1/none"]
    assert main(["tail", "-n", "1", *unreachable]) == 0
    assert capsys.readouterr().err == ""
    assert main(["tail", "--pool", POOL, *unreachable]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert err.strip() == f"{POOL}: older events are in the archive, which is unreachable"
    assert main(["tail", "--from", "0", *unreachable]) == 3
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "127.0.0.1" in line
