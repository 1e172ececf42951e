"""Server-sent events: filters, exact resumption, slow clients, pools that come later."""

import asyncio
import base64
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from gateway.following.subscriptions import EncodedEvent, Subscription
from gateway.options import Limits
from gateway.resources import event_stream
from tests.integration.gateway.stage import AGENTS, QUICK, GatewayStage, gateway_stage
from tests.integration.projector.stage import POOL
from tests.pools import raw_events
from tests.waiting import until

EVENTS = "/api/v1/events"


@pytest.fixture
async def stage(redis_url, tmp_path):
    database = f"sqlite:///{tmp_path / 'views.db'}"
    limits = replace(QUICK, catch_up_seconds=0.5)  # for views without a projector
    async with gateway_stage(redis_url, database, projecting=False, limits=limits) as shown:
        yield shown


class Client:
    """Reads a stream as a browser does."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.last = ""

    async def next(self) -> dict[str, Any]:
        """The next event's data."""
        async with asyncio.timeout(10):
            while True:
                line = (await self.response.content.readline()).decode()
                assert line, "the stream ended"
                if line.startswith("id: "):
                    self.last = line[4:].strip()
                if line.startswith("data: "):
                    return dict(json.loads(line[6:]))

    async def take(self, count: int) -> list[dict[str, Any]]:
        return [await self.next() for _ in range(count)]


@asynccontextmanager
async def following(stage: GatewayStage, query: str = "", last: str = "") -> AsyncIterator[Client]:
    headers = {"Last-Event-ID": last} if last else {}
    async with stage.session.get(f"{EVENTS}{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        client = Client(response)
        while not client.last:
            line = (await response.content.readline()).decode()
            client.last = line[4:].strip() if line.startswith("id: ") else ""
        yield client


async def test_events_come_as_they_are_in_the_log(stage):
    async with following(stage) as client:
        agent_id = await stage.pending(input={"task": "x"})
        sent = await client.next()
    [entry] = raw_events(stage.stage.redis_url)
    assert (sent["pool"], sent["subject"], sent["seq"]) == (POOL, agent_id, 1)
    assert sent["data"] == json.loads(entry["data"])
    same = ("type", "event_id", "correlation_id", "actor", "worker_id")
    assert {name: sent[name] for name in same} == {name: entry[name] for name in same}


async def test_only_what_was_asked_for_comes(stage):
    """Live and from the past alike."""
    tester = await stage.stage.pool("tester_pool")
    asynchronous = {"headers": {"Prefer": "respond-async"}}
    async with following(stage, "?type=agent.terminated") as live:
        ids = [await stage.pending(), await stage.pending()]
        await tester.spawn()
        for agent_id in ids:
            await stage.ask("DELETE", f"{AGENTS}/{agent_id}", **asynchronous)
        assert [event["subject"] for event in await live.take(2)] == ids
    assert await _past(stage, "&pool=tester_pool", 1) == [("tester_pool", "agent.requested")]
    ended = [(POOL, "agent.termination_requested"), (POOL, "agent.terminated")]
    assert await _past(stage, f"&agent={ids[1]}", 3) == [(POOL, "agent.requested"), *ended]
    both = f"&pool={POOL}&type=agent.terminated&type=agent.termination_requested"
    assert await _past(stage, both, 4) == ended * 2


async def _past(stage: GatewayStage, query: str, count: int) -> list[tuple[str, str]]:
    async with following(stage, f"?after=0{query}") as client:
        return [(event["pool"], event["type"]) for event in await client.take(count)]


@pytest.mark.parametrize("how", ["header", "parameter"])
async def test_a_client_that_comes_back_misses_and_repeats_nothing(stage, how):
    """Cut at every place in turn, while events go on being written."""
    wanted = 60

    async def write():
        for _ in range(wanted):
            await stage.pending()

    seen: list[int] = []
    async with following(stage) as client:
        last = client.last
    writing = asyncio.ensure_future(write())
    cut = 0
    while len(seen) < wanted:
        cut = cut % 7 + 1
        query = f"?after={last}" if how == "parameter" else ""
        async with following(stage, query, last if how == "header" else "") as client:
            events = await client.take(min(cut, wanted - len(seen)))
            seen += [event["seq"] for event in events]
            last = client.last
    await writing
    assert seen == list(range(1, wanted + 1))


async def test_an_event_both_in_the_archive_and_in_the_live_feed_comes_once(stage, monkeypatch):
    """Events written after the client took its place, and before it has caught up."""
    await stage.pending()
    catch_up = event_stream.Stream._catch_up

    async def late(stream: event_stream.Stream) -> None:
        await stage.pending()
        await until(lambda: stage.backend.tail.heads[POOL].seq == 2)
        await catch_up(stream)

    monkeypatch.setattr(event_stream.Stream, "_catch_up", late)
    async with following(stage, f"?after=0&pool={POOL}") as client:
        assert [event["seq"] for event in await client.take(2)] == [1, 2]
        await stage.pending()
        assert (await client.next())["seq"] == 3


async def test_from_the_beginning_everything_comes(stage, monkeypatch):
    """More than a page of the stream, then what happens live."""
    monkeypatch.setattr(event_stream, "PAGE_SIZE", 3)
    for _ in range(8):
        await stage.pending()
    async with following(stage, f"?after=0&pool={POOL}") as client:
        assert [event["seq"] for event in await client.take(8)] == list(range(1, 9))
        await stage.pending()
        assert (await client.next())["seq"] == 9


async def test_large_events_go_out_one_by_one(stage, monkeypatch):
    """A client that takes nothing costs a piece or two, not all that it asked for."""
    sizes: list[int] = []
    write = event_stream.Stream._write

    async def noted(stream: event_stream.Stream, content: bytes) -> None:
        sizes.append(len(content))
        await write(stream, content)

    monkeypatch.setattr(event_stream.Stream, "_write", noted)
    large = {"text": "x" * 60_000}
    for _ in range(6):
        await stage.pending(input=large)
    async with following(stage, f"?after=0&pool={POOL}") as client:
        events = await client.take(6)
    assert [event["seq"] for event in events] == list(range(1, 7))
    assert max(sizes) < event_stream.CHUNK_BYTES + 62_000


@pytest.mark.parametrize("at", ["٣-٣", f"{2**64}-0"])
async def test_a_position_that_no_stream_has_is_refused(stage, at):
    refused = await stage.get(f"{EVENTS}?after={event_stream.Cursor({POOL: at})}")
    assert (refused.status, refused.fields) == (400, ["Last-Event-ID"])


async def test_a_client_of_many_pools_comes_back(stage):
    """Its position in all of them fits in a header."""
    many = {f"developer_pool_{number}": f"17641872{number:05}-0" for number in range(500)}
    before = event_stream.Cursor(many | {POOL: "0-0"})
    assert len(str(before)) < Limits().header_max
    agent_id = await stage.pending()
    async with following(stage, f"?pool={POOL}", str(before)) as client:
        assert (await client.next())["subject"] == agent_id
    assert event_stream.Cursor.parse(str(before)).positions == before.positions


@pytest.mark.parametrize(("pairs", "cut"), [(2_000, 4), (200_000, 0)], ids=["cut off", "too large"])
async def test_a_long_position_that_is_not_whole_is_refused(stage, pairs, cut):
    packed = zlib.compress(b",".join([b"p=1-0"] * pairs), 1)
    after = base64.urlsafe_b64encode(packed[: len(packed) - cut]).decode()
    assert len(after) < Limits().header_max - 100
    refused = await stage.get(f"{EVENTS}?after={after}")
    assert (refused.status, refused.fields) == (400, ["Last-Event-ID"])


async def test_a_pool_that_comes_later_is_followed_from_its_first_event(stage):
    async with following(stage, "?type=agent.requested") as client:
        body = {"pool_name": "late", "role_type": "developer"}
        assert (await stage.ask("POST", f"{AGENTS}/pools", json=body)).status == 201
        agent_id = await stage.pending(pool_name="late")
        sent = await client.next()
        assert (sent["pool"], sent["seq"], sent["subject"]) == ("late", 1, agent_id)
    again = await stage.pending(pool_name="late")
    async with following(stage, "?type=agent.requested", client.last) as back:
        assert (await back.next())["subject"] == again


async def test_a_quiet_stream_is_kept_open_and_carries_its_position(stage):
    async with following(stage, "?type=agent.failed") as client:
        await stage.pending()
        start = client.last
        async with asyncio.timeout(10):
            while client.last == start:
                line = (await client.response.content.readline()).decode()
                client.last = line[4:].strip() if line.startswith("id: ") else start


def _told(n: int) -> EncodedEvent:
    return EncodedEvent(POOL, f"{n}-0", "agent.requested", "", b"{}")


async def test_a_client_too_far_behind_loses_its_connection_rather_than_events():
    place = Subscription(limit=3)
    place.put([_told(1), _told(2)])
    assert len(await place.next(1)) == 2
    place.put([_told(3), _told(4), _told(5)])
    place.put([_told(6)])
    assert (place.overflowed, await place.next(1)) == (True, [])


async def test_a_client_that_fell_behind_is_disconnected_and_continues_at_its_position(
    redis_url, tmp_path
):
    limits = type(QUICK)(stream_queue=1)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, projecting=False, limits=limits) as stage:
        async with following(stage) as client:
            start = client.last
            [place] = stage.backend.subscriptions._subscriptions
            place.put([_told(1), _told(2)])
            async with asyncio.timeout(10):
                assert b"too slow; reconnect" in await client.response.content.read()
        ids = [await stage.pending() for _ in range(3)]
        async with following(stage, "", start) as client:
            assert [event["subject"] for event in await client.take(3)] == ids


async def test_a_client_that_lost_its_connection_among_unwanted_events_skips_them(
    redis_url, tmp_path, monkeypatch
):
    """Else a client of few events in a busy log starts again and again, and never catches up."""
    limits = type(QUICK)(stream_queue=1)
    database = f"sqlite:///{tmp_path / 'v.db'}"
    catch_up = event_stream.Stream._catch_up

    async def late(stream: event_stream.Stream) -> None:
        await catch_up(stream)
        [place] = stream._backend.subscriptions._subscriptions
        place.put([_told(1), _told(2)])

    monkeypatch.setattr(event_stream.Stream, "_catch_up", late)
    async with gateway_stage(redis_url, database, projecting=False, limits=limits) as stage:
        await stage.pending()
        await until(lambda: stage.backend.tail.heads[POOL].seq == 1)
        async with following(stage, "?after=0&type=agent.failed") as client:
            content = (await client.response.content.read()).decode()
        [sent] = [line[4:] for line in content.splitlines() if line.startswith("id: ")]
        assert event_stream.Cursor.parse(sent).positions == stage.backend.tail.positions


async def test_a_client_that_catches_up_with_unwanted_events_gets_keep_alives(stage, monkeypatch):
    """A proxy takes a long silence for the end, and the client would start again."""
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


async def test_a_gateway_that_stops_lets_its_followers_go(stage):
    async with following(stage) as client:
        await asyncio.wait_for(stage.gateway.stop(), 10)
        assert b"the gateway stops" in await client.response.content.read()
