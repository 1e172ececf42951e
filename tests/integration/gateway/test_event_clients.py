"""Clients of the events that are quiet, slow or too many, and what they cost."""

import asyncio
from typing import Any

import pytest

from gateway.following.cursor import Cursor
from gateway.following.subscriptions import EncodedEvent, Subscription
from gateway.resources import event_stream
from tests.integration.gateway.event_client import EVENTS, following
from tests.integration.gateway.stage import QUICK, GatewayStage, gateway_stage
from tests.integration.projector.stage import POOL
from tests.waiting import until


@pytest.fixture
def stage(unprojected: GatewayStage) -> GatewayStage:
    return unprojected


def _event(n: int) -> EncodedEvent:
    return EncodedEvent(POOL, f"{n}-0", "agent.requested", "", b"{}")


async def test_large_events_go_out_one_by_one(stage, monkeypatch):
    """A client that reads nothing costs a chunk or two, not all that it requested."""
    sizes: list[int] = []
    write = event_stream.Stream._write

    async def recorded(stream: event_stream.Stream, content: bytes) -> None:
        sizes.append(len(content))
        await write(stream, content)

    monkeypatch.setattr(event_stream.Stream, "_write", recorded)
    large = {"text": "x" * 60_000}
    for _ in range(6):
        await stage.pending(input=large)
    async with following(stage, f"?after=0&pool={POOL}") as client:
        events = await client.read(6)
    assert [event["seq"] for event in events] == list(range(1, 7))
    assert max(sizes) < event_stream.CHUNK_BYTES + 62_000


async def test_a_quiet_stream_stays_open_and_sends_its_position(stage):
    async with following(stage, "?type=agent.failed") as client:
        await stage.pending()
        start = client.last
        async with asyncio.timeout(10):
            while client.last == start:
                line = (await client.response.content.readline()).decode()
                client.last = line[4:].strip() if line.startswith("id: ") else start


async def test_a_client_too_far_behind_loses_its_connection_rather_than_events():
    subscription = Subscription(limit=3)
    subscription.put([_event(1), _event(2)])
    assert len(await subscription.next(1)) == 2
    subscription.put([_event(3), _event(4), _event(5)])
    subscription.put([_event(6)])
    assert (subscription.overflowed, await subscription.next(1)) == (True, [])


async def test_a_client_that_fell_behind_is_disconnected_and_continues_at_its_position(
    redis_url, tmp_path
):
    limits = type(QUICK)(stream_queue=1)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, projecting=False, limits=limits) as stage:
        async with following(stage) as client:
            start = client.last
            [subscription] = stage.backend.subscriptions._subscriptions
            subscription.put([_event(1), _event(2)])
            async with asyncio.timeout(10):
                assert b"too slow; reconnect" in await client.response.content.read()
        ids = [await stage.pending() for _ in range(3)]
        await until(lambda: stage.backend.tail.heads[POOL].seq >= 3)
        async with following(stage, "", start) as client:
            assert [event["subject"] for event in await client.read(3)] == ids


async def test_a_client_that_lost_its_connection_among_unwanted_events_skips_them(
    redis_url, tmp_path, monkeypatch
):
    """Otherwise a client of few events in a busy log would start again and again."""
    limits = type(QUICK)(stream_queue=1)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    catch_up = event_stream.Stream._catch_up

    async def late(stream: event_stream.Stream) -> None:
        await catch_up(stream)
        [subscription] = stream._backend.subscriptions._subscriptions
        subscription.put([_event(1), _event(2)])

    monkeypatch.setattr(event_stream.Stream, "_catch_up", late)
    async with gateway_stage(redis_url, database, projecting=False, limits=limits) as stage:
        await stage.pending()
        await until(lambda: stage.backend.tail.heads[POOL].seq == 1)
        async with following(stage, "?after=0&type=agent.failed") as client:
            content = (await client.response.content.read()).decode()
        [sent] = [line[4:] for line in content.splitlines() if line.startswith("id: ")]
        assert Cursor.parse(sent).positions == stage.backend.tail.positions


async def test_a_client_that_catches_up_with_unwanted_events_gets_keep_alives(stage, monkeypatch):
    """A proxy closes a connection that is silent for long, and the client would start again."""
    monkeypatch.setattr(event_stream, "PAGE_SIZE", 1)
    for _ in range(3):
        await stage.pending()
    await until(lambda: stage.backend.tail.heads[POOL].seq == 3)
    after = stage.backend.event_range.after

    async def slowly(*args: Any, **options: Any) -> Any:
        await asyncio.sleep(QUICK.stream_heartbeat_seconds)
        return await after(*args, **options)

    monkeypatch.setattr(stage.backend.event_range, "after", slowly)
    async with following(stage, "?after=0&type=agent.failed") as client:
        async with asyncio.timeout(10):
            while b"catching up" not in await client.response.content.readline():
                pass
            sent = (await client.response.content.readline()).decode()
    assert sent[4:].strip() != client.last


async def test_one_client_too_many_is_refused_until_another_leaves(redis_url, tmp_path):
    limits = type(QUICK)(streams_max=1, stream_heartbeat_seconds=0.05)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, projecting=False, limits=limits) as stage:
        async with following(stage):
            refused = await stage.get(EVENTS)
            assert (refused.status, refused.kind) == (429, "too-many-streams")
        feed = stage.backend.subscriptions
        await until(lambda: len(feed) == 0)
        async with following(stage):
            pass


async def test_a_head_request_opens_no_stream(stage):
    answer = await asyncio.wait_for(stage.ask("HEAD", EVENTS), 10)
    assert answer.status == 405


async def test_a_gateway_that_stops_ends_its_streams(stage):
    async with following(stage) as client:
        await asyncio.wait_for(stage.gateway.stop(), 10)
        assert b"the gateway stops" in await client.response.content.read()
