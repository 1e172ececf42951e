"""Who comes late to a stream that was trimmed goes on from the archive: gateways, `tail`."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from eventstore.language.agent_commands import Terminate
from eventstore.log.reader import Entry
from eventstore.retention import Retention
from gateway.following.tail import Tail
from muster.__main__ import main
from muster.cli.events.tail import TailOptions, read_events
from tests.integration.gateway.stage import AGENTS, GatewayStage, gateway_stage, logged
from tests.integration.gateway.test_event_stream import following
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.pools import ORIGIN, TestPool, raw_events
from tests.waiting import until

ONE = Retention(events=1, age_ms=10**14)


@pytest.fixture
async def shown(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayStage]:
    """A gateway; each test runs a projector that leaves one event in every stream."""
    database = f"sqlite:///{tmp_path / 'views.db'}"
    async with gateway_stage(redis_url, database, projecting=False) as stage:
        yield stage


@asynccontextmanager
async def trimming(stage: Stage) -> AsyncIterator[None]:
    async with stage.projecting(retention=ONE, trim_seconds=0.02):
        yield


async def trimmed(stage: Stage) -> int:
    """Wait until the stream holds its last event only; answers the seq of that one."""
    await stage.settle(POOL)
    await until(lambda: len(raw_events(stage.redis_url)) == 1, what="a trimmed stream")
    return int(raw_events(stage.redis_url)[0]["seq"])


def seqs(events: list[dict[str, Any]]) -> list[int]:
    return [event["seq"] for event in events]


async def test_a_client_of_the_events_gets_them_from_the_beginning(shown: GatewayStage) -> None:
    """From the archive, then the stream, then live: none missing, none twice, word for word."""
    async with trimming(shown.stage):
        await shown.stage.play(shown.pool)
        last = await trimmed(shown.stage)
        async with following(shown, f"?after=0&pool={POOL}") as client:
            past = await client.take(last)
            await shown.pending()
            live = await client.next()
    assert seqs([*past, live]) == list(range(1, last + 2))
    rows = await shown.stage.views.events(POOL)
    assert [one["event_id"] for one in past] == [row.event_id for row in rows][:last]
    assert [one["data"] for one in past] == [json.loads(row.data) for row in rows][:last]


async def test_a_client_that_comes_back_late_continues_at_its_position(shown: GatewayStage) -> None:
    """Cut at every place in turn, while the stream below it goes."""
    wanted = 40
    async with trimming(shown.stage):
        seen: list[int] = []
        async with following(shown) as client:
            last = client.last
        for _ in range(wanted):
            await shown.pending()
        assert await trimmed(shown.stage) == wanted
        while len(seen) < wanted:
            async with following(shown, last=last) as client:
                seen += seqs(await client.take(min(len(seen) % 7 + 1, wanted - len(seen))))
                last = client.last
    assert seen == list(range(1, wanted + 1))


async def test_without_the_archive_a_late_client_is_refused_rather_than_given_a_gap(
    shown: GatewayStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trimming(shown.stage):
        for _ in range(5):
            await shown.pending()
        await trimmed(shown.stage)
    monkeypatch.setattr(shown.backend, "views_open", False)
    async with shown.session.get(f"/api/v1/events?after=0&pool={POOL}") as response:
        text = (await response.content.read()).decode()
    assert ": Redis, or the archive, does not answer; reconnect" in text
    assert "data:" not in text
    monkeypatch.setattr(shown.backend, "views_open", True)
    async with following(shown, f"?after=0&pool={POOL}") as client:
        assert seqs(await client.take(5)) == [1, 2, 3, 4, 5]


class Listener:
    """A listener of a gateway's tail."""

    def __init__(self) -> None:
        self.seqs: list[int] = []

    def consume(self, pool: str, entries: Sequence[Entry]) -> None:
        if pool == POOL:
            self.seqs += [int(fields[5]) for _, fields in entries]


async def test_a_gateway_that_could_not_read_catches_up_with_what_was_trimmed_meanwhile(
    shown: GatewayStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused host, a cut network: waiting requests fold what they hear, so nothing may lack."""
    listener, tail = Listener(), shown.backend.tail
    tail._listeners = [*tail._listeners, listener.consume]
    free, held = asyncio.Event(), asyncio.Event()
    free.set()
    read = tail._reader.read

    async def sometimes(*arguments: Any, **options: Any) -> Any:
        if not free.is_set():
            held.set()
            await free.wait()
        return await read(*arguments, **options)

    monkeypatch.setattr(tail._reader, "read", sometimes)
    async with trimming(shown.stage):
        await shown.pending()
        await until(lambda: listener.seqs == [1])
        free.clear()
        await shown.pool.spawn()  # brings the reading that waits to its end
        await asyncio.wait_for(held.wait(), 10)
        for _ in range(30):
            await shown.pool.spawn()
        last = await trimmed(shown.stage)
        free.set()
        await until(lambda: len(listener.seqs) >= last)
        agent_id = await shown.pending()
        ended = await shown.ask("DELETE", f"{AGENTS}/{agent_id}")
        assert ended.status == 200
    assert listener.seqs[:last] == list(range(1, last + 1))


async def test_a_gap_in_both_is_reported_and_does_not_delay_later_events(
    shown: GatewayStage,
) -> None:
    listener = Listener()
    tail: Tail = shown.backend.tail
    tail._listeners = [*tail._listeners, listener.consume]
    async with trimming(shown.stage), logged() as lines:
        await shown.pending()
        await until(lambda: listener.seqs == [1])
        tail.heads[POOL].advance(-3, 0)  # as if the last one seen were long before
        await shown.pending()
        await until(lambda: len(listener.seqs) == 2)
        missing = [line for line in lines if line["event"] == "gateway.events_missing"]
    assert [(line["after"], line["before"]) for line in missing] == [(-3, 2)]


# ---- muster tail -----------------------------------------------------------------------------


class Record:
    """A log of two pools, of which one event each is in Redis."""

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
        async with stage.projecting(retention=ONE, trim_seconds=0.02):
            for pool in pools.values():
                ids = [(await pool.spawn()).agent_id for _ in range(8)]
                await stage.act(pool, ids[0], Terminate(reason="enough"))
            await stage.settle()
            for name in pools:
                await until(lambda: len(raw_events(redis_url, name)) == 1)  # noqa: B023
            yield Record(stage, pools, 10)


def places(pool: str, first: int, last: int) -> list[str]:
    return [f"{pool}:{seq}" for seq in range(first, last + 1)]


async def test_tail_prints_everything_from_the_start(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.cli.events.streams.CHUNK", 3)
    events = await record.tail(start="0")
    assert sorted(events) == sorted(
        [*places("catalogue", 1, 2), *places("alpha", 1, 10), *places("beta", 1, 10)]
    )


async def test_tail_starts_at_any_event_of_the_archive(record: Record) -> None:
    for seq in range(1, record.last + 1):
        assert await record.tail(start=f"alpha:{seq}") == places("alpha", seq, 10)


async def test_tail_goes_back_into_the_archive_for_the_last_of_a_kind(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.cli.events.streams.CHUNK", 3)
    asked = await record.tail(count=2, types=("agent.requested",), pools=("alpha",))
    assert asked == places("alpha", 7, 8)


async def test_tail_says_what_it_cannot_print_without_a_database(
    record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await record.tail(archive=False, start="0", pools=("alpha",)) == ["alpha:10"]
    assert "alpha: events before 10 are in the archive only" in capsys.readouterr().err


async def test_a_delayed_tail_prints_what_was_trimmed_meanwhile(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its terminal was stopped with Ctrl-S, say."""
    seen: list[str] = []
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
            seen.append(f"{event.pool}:{event.seq}")
            if event.seq == 11:
                await blocked.wait()

    pool = record.pools["alpha"]
    task = asyncio.ensure_future(follow())
    try:
        await until(lambda: seen == ["alpha:10"])
        await pool.spawn()
        await until(lambda: seen == places("alpha", 10, 11))
        for _ in range(5):
            await pool.spawn()
        await record.stage.settle()
        await until(lambda: len(raw_events(record.stage.redis_url, "alpha")) == 1)
        blocked.set()
        await until(lambda: len(seen) == 7)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert seen == places("alpha", 10, 16)


async def test_tail_delayed_before_it_followed_prints_what_was_trimmed_meanwhile(
    record: Record,
) -> None:
    """It has not read anything of the stream but its last event when it is stopped."""
    follows = TailOptions(
        redis_url=record.stage.redis_url,
        database_url=record.stage.database_url,
        pools=("alpha",),
        count=1,
        follow=True,
    )
    async with asyncio.timeout(10), aclosing(read_events(follows)) as events:
        seen = [(await anext(events)).seq]
        for _ in range(6):
            await record.pools["alpha"].spawn()
        await record.stage.settle()
        await until(lambda: len(raw_events(record.stage.redis_url, "alpha")) == 1)
        while seen[-1] < 16:
            seen.append((await anext(events)).seq)
    assert seen == list(range(10, 17))


def test_an_unreachable_database_is_one_line(
    redis_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It is asked only for what was trimmed; the last events are shown as far as Redis has them."""

    async def trimmed_log() -> None:
        async with open_stage(redis_url, f"sqlite:///{tmp_path / 'views.db'}") as stage:
            pool = await stage.pool()
            async with stage.projecting(retention=ONE, trim_seconds=0.02):
                await stage.catalogue.join_host("h", "box", 1, ORIGIN)
                for _ in range(3):
                    await pool.spawn()
                await trimmed(stage)

    asyncio.run(trimmed_log())
    unreachable = ["--redis-url", redis_url, "--database-url", "postgresql://127.0.0.1:1/none"]
    assert main(["tail", "-n", "1", *unreachable]) == 0
    assert capsys.readouterr().err == ""
    assert main(["tail", "--pool", POOL, *unreachable]) == 0
    shown, said = capsys.readouterr()
    assert len(shown.splitlines()) == 1
    assert said.strip() == f"{POOL}: older events are in the archive, which is unreachable"
    assert main(["tail", "--from", "0", *unreachable]) == 3
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "127.0.0.1" in line
