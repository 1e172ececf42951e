"""A client or gateway that is behind a stream that was trimmed continues from the archive."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from eventstore.log.reader import Entry
from gateway.following.tail import Tail
from tests.integration.gateway.event_client import following
from tests.integration.gateway.stage import AGENTS, GatewayStage, logged
from tests.integration.gateway.trimming import trimmed, trimming
from tests.integration.projector.stage import POOL
from tests.waiting import until


@pytest.fixture
def stage(unprojected: GatewayStage) -> GatewayStage:
    return unprojected


async def test_a_client_of_the_events_gets_them_from_the_beginning(stage: GatewayStage) -> None:
    """From the archive, then the stream, then live: none missing, none twice."""
    async with trimming(stage.stage):
        await stage.stage.play(stage.pool)
        last = await trimmed(stage.stage)
        async with following(stage, f"?after=0&pool={POOL}") as client:
            past = await client.read(last)
            await stage.pending()
            live = await client.next()
    assert seqs([*past, live]) == list(range(1, last + 2))
    rows = await stage.stage.views.events(POOL)
    assert [one["event_id"] for one in past] == [row.event_id for row in rows][:last]
    assert [one["data"] for one in past] == [json.loads(row.data) for row in rows][:last]


def seqs(events: list[dict[str, Any]]) -> list[int]:
    return [event["seq"] for event in events]


async def test_a_client_that_comes_back_late_continues_at_its_position(stage: GatewayStage) -> None:
    """Cut at every position in turn, of events that only the archive has."""
    wanted = 40
    async with trimming(stage.stage):
        received: list[int] = []
        async with following(stage) as client:
            last = client.last
        for _ in range(wanted):
            await stage.pending()
        assert await trimmed(stage.stage) == wanted
        while len(received) < wanted:
            async with following(stage, last=last) as client:
                received += seqs(
                    await client.read(min(len(received) % 7 + 1, wanted - len(received)))
                )
                last = client.last
    assert received == list(range(1, wanted + 1))


async def test_without_the_archive_a_late_client_is_refused_rather_than_sent_a_gap(
    stage: GatewayStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trimming(stage.stage):
        for _ in range(5):
            await stage.pending()
        await trimmed(stage.stage)
    monkeypatch.setattr(stage.backend, "views_error", "it is gone")
    async with stage.session.get(f"/api/v1/events?after=0&pool={POOL}") as response:
        text = (await response.content.read()).decode()
    assert ": Redis, or the archive, does not answer; reconnect" in text
    assert "data:" not in text
    monkeypatch.setattr(stage.backend, "views_error", "")
    async with following(stage, f"?after=0&pool={POOL}") as client:
        assert seqs(await client.read(5)) == [1, 2, 3, 4, 5]


class Listener:
    """A listener of a gateway's tail."""

    def __init__(self) -> None:
        self.seqs: list[int] = []

    def consume(self, pool: str, entries: Sequence[Entry]) -> None:
        if pool == POOL:
            self.seqs += [int(fields[5]) for _, fields in entries]


async def test_a_gateway_that_could_not_read_catches_up_with_what_was_trimmed_meanwhile(
    stage: GatewayStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused host, a cut network: waiting requests fold it, so nothing may lack."""
    listener, tail = Listener(), stage.backend.tail
    tail._listeners = [*tail._listeners, listener.consume]
    free, waiting = asyncio.Event(), asyncio.Event()
    free.set()
    read = tail._reader.read

    async def sometimes(*arguments: Any, **options: Any) -> Any:
        if not free.is_set():
            waiting.set()
            await free.wait()
        return await read(*arguments, **options)

    monkeypatch.setattr(tail._reader, "read", sometimes)
    async with trimming(stage.stage):
        await stage.pending()
        await until(lambda: listener.seqs == [1])
        free.clear()
        await stage.pool.spawn()  # ends the read that waits
        await asyncio.wait_for(waiting.wait(), 10)
        for _ in range(30):
            await stage.pool.spawn()
        last = await trimmed(stage.stage)
        free.set()
        await until(lambda: len(listener.seqs) >= last)
        agent_id = await stage.pending()
        ended = await stage.ask("DELETE", f"{AGENTS}/{agent_id}")
        assert ended.status == 200
    assert listener.seqs[:last] == list(range(1, last + 1))


async def test_a_gap_in_both_is_reported_and_does_not_delay_later_events(
    stage: GatewayStage,
) -> None:
    listener = Listener()
    tail: Tail = stage.backend.tail
    tail._listeners = [*tail._listeners, listener.consume]
    async with trimming(stage.stage), logged() as lines:
        await stage.pending()
        await until(lambda: listener.seqs == [1])
        tail.heads[POOL].advance(-3, 0)  # as if the last one read were much older
        await stage.pending()
        await until(lambda: len(listener.seqs) == 2)
        missing = [line for line in lines if line["event"] == "gateway.events_missing"]
    assert [(line["after"], line["before"]) for line in missing] == [(-3, 2)]
