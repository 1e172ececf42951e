"""Server-sent events: which ones come, and exact resumption after a cut."""

import asyncio
import base64
import json
import zlib
from typing import Any

import aiohttp
import pytest

from gateway.following.cursor import Cursor
from gateway.options import Limits
from gateway.resources import event_stream
from tests.integration.gateway.event_client import EVENTS, following
from tests.integration.gateway.stage import AGENTS, GatewayStage, logged
from tests.integration.projector.stage import POOL
from tests.pools import raw_events
from tests.waiting import until


@pytest.fixture
def stage(unprojected: GatewayStage) -> GatewayStage:
    return unprojected


async def test_events_come_as_they_are_in_the_log(stage):
    async with following(stage) as client:
        agent_id = await stage.pending(input={"task": "x"})
        sent = await client.next()
    [entry] = raw_events(stage.stage.redis_url)
    assert (sent["pool"], sent["subject"], sent["seq"]) == (POOL, agent_id, 1)
    assert sent["data"] == json.loads(entry["data"])
    same = ("type", "event_id", "correlation_id", "actor", "worker_id")
    assert {name: sent[name] for name in same} == {name: entry[name] for name in same}


async def test_the_type_of_an_event_is_that_of_its_message(stage):
    """A browser calls the listeners of that type."""
    async with following(stage, "?type=agent.requested") as client:
        await stage.pending()
        lines = ["\n"]
        while lines[0][0] in ":\n":  # comments come while there is no event
            lines = [(await client.response.content.readline()).decode()]
            while lines[-1] != "\n":
                lines.append((await client.response.content.readline()).decode())
    written = [line.partition(": ")[0] for line in lines]
    assert sorted(written) == ["\n", "data", "event", "id"]
    assert "event: agent.requested\n" in lines


async def test_only_what_was_asked_for_comes(stage):
    """Both live and from the past."""
    tester = await stage.stage.pool("tester_pool")
    asynchronous = {"headers": {"Prefer": "respond-async"}}
    async with following(stage, "?type=agent.terminated") as live:
        ids = [await stage.pending(), await stage.pending()]
        await tester.spawn()
        for agent_id in ids:
            await stage.ask("DELETE", f"{AGENTS}/{agent_id}", **asynchronous)
        assert [event["subject"] for event in await live.read(2)] == ids
    assert await _past(stage, "&pool=tester_pool", 1) == [("tester_pool", "agent.requested")]
    ended = [(POOL, "agent.termination_requested"), (POOL, "agent.terminated")]
    assert await _past(stage, f"&agent={ids[1]}", 3) == [(POOL, "agent.requested"), *ended]
    both = f"&pool={POOL}&type=agent.terminated&type=agent.termination_requested"
    assert await _past(stage, both, 4) == ended * 2


async def _past(stage: GatewayStage, query: str, count: int) -> list[tuple[str, str]]:
    async with following(stage, f"?after=0{query}") as client:
        return [(event["pool"], event["type"]) for event in await client.read(count)]


@pytest.mark.parametrize("how", ["header", "parameter"])
async def test_a_client_that_comes_back_misses_and_repeats_nothing(stage, how):
    """Cut at every position in turn, while events go on being written."""
    wanted = 60

    async def write():
        for _ in range(wanted):
            await stage.pending()

    received: list[int] = []
    async with following(stage) as client:
        last = client.last
    writing = asyncio.ensure_future(write())
    cut = 0
    while len(received) < wanted:
        cut = cut % 7 + 1
        query = f"?after={last}" if how == "parameter" else ""
        async with following(stage, query, last if how == "header" else "") as client:
            events = await client.read(min(cut, wanted - len(received)))
            received += [event["seq"] for event in events]
            last = client.last
    await writing
    assert received == list(range(1, wanted + 1))


async def test_an_event_both_in_the_archive_and_in_the_live_feed_comes_once(stage, monkeypatch):
    """Events written after the client subscribed, and before it has caught up."""
    await stage.pending()
    catch_up = event_stream.Stream._catch_up

    async def late(stream: event_stream.Stream) -> None:
        await stage.pending()
        await until(lambda: stage.backend.tail.heads[POOL].seq == 2)
        await catch_up(stream)

    monkeypatch.setattr(event_stream.Stream, "_catch_up", late)
    async with following(stage, f"?after=0&pool={POOL}") as client:
        assert [event["seq"] for event in await client.read(2)] == [1, 2]
        await stage.pending()
        assert (await client.next())["seq"] == 3


async def test_from_the_beginning_everything_comes(stage, monkeypatch):
    """More than a page of the stream, then what happens live."""
    monkeypatch.setattr(event_stream, "PAGE_SIZE", 3)
    for _ in range(8):
        await stage.pending()
    async with following(stage, f"?after=0&pool={POOL}") as client:
        assert [event["seq"] for event in await client.read(8)] == list(range(1, 9))
        await stage.pending()
        assert (await client.next())["seq"] == 9


async def test_a_removed_pool_is_left_out_of_the_positions_to_resume_from(stage):
    """One that only another gateway knows of so far is not."""
    other = await stage.stage.pool("another")
    positions = {**stage.backend.tail.positions, "gone": "5-0", other.pool.pool_name: "0-0"}
    async with following(stage, "", str(Cursor(positions))) as client:
        assert Cursor.parse(client.last).positions.keys() == positions.keys() - {"gone"}


async def test_a_pool_of_a_removed_name_is_followed_from_its_own_first_event(stage, monkeypatch):
    """A client had the events of the earlier one, and its position has left that out since."""
    asked = []

    async def retired_at(pool: str) -> tuple[str, int]:
        asked.append(pool)
        return "7-0", 7

    monkeypatch.setattr(stage.backend.log, "retired_at", retired_at)
    others = {pool: at for pool, at in stage.backend.tail.positions.items() if pool != POOL}
    async with following(stage, "", str(Cursor(others))) as client:
        assert Cursor.parse(client.last).positions[POOL] == "7-0"
    assert asked == [POOL]


async def test_a_client_of_many_pools_comes_back(stage):
    """Its position in all of them fits in a header."""
    many = {f"developer_pool_{number}": f"17641872{number:05}-0" for number in range(500)}
    before = Cursor(many | {POOL: "0-0"})
    assert len(str(before)) < Limits().header_max
    agent_id = await stage.pending()
    async with following(stage, f"?pool={POOL}", str(before)) as client:
        assert (await client.next())["subject"] == agent_id
    assert Cursor.parse(str(before)).positions == before.positions


def _packed(pairs: int, cut: int = 0) -> str:
    """A position of so many pools, compressed as cursors are, without its last bytes."""
    packed = zlib.compress(b",".join([b"p=1-0"] * pairs), 1)
    return base64.urlsafe_b64encode(packed[: len(packed) - cut]).decode()


NO_POSITIONS = {
    "digits": Cursor({POOL: "٣-٣"}),
    "number": Cursor({POOL: f"{2**64}-0"}),
    "cut off": _packed(2_000, cut=4),
    "too large": _packed(200_000),
}


async def test_a_position_that_no_stream_has_or_that_cannot_be_read_is_refused(stage, subtests):
    for why, after in NO_POSITIONS.items():
        with subtests.test(why):
            assert len(str(after)) < Limits().header_max - 100
            refused = await stage.get(f"{EVENTS}?after={after}")
            assert (refused.status, refused.fields) == (400, ["after"])
            header = await stage.get(EVENTS, headers={"Last-Event-ID": str(after)})
            assert (header.status, header.fields) == (400, ["Last-Event-ID"])


async def test_a_client_that_comes_back_to_a_pool_that_came_meanwhile_gets_its_first_event(stage):
    async with following(stage, "?pool=later&pool=never") as client:
        first = client.last
    await stage.stage.pool("later")
    agent_id = await stage.pending(pool_name="later")
    async with following(stage, "?pool=later&pool=never", first) as back:
        assert (await back.next())["subject"] == agent_id
    assert back.last != first


async def test_an_error_in_the_middle_ends_the_stream(stage, monkeypatch):
    """There is no second answer in it, and its client sees that it is incomplete."""
    run = event_stream.Stream.run

    async def defect(*arguments: Any) -> None:
        await run(*arguments)
        raise RuntimeError("a defect")

    monkeypatch.setattr(event_stream.Stream, "run", defect)
    async with logged() as lines, following(stage) as client:
        stage.backend.subscriptions.close()
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.response.content.read()
    assert "gateway.request_failed" in [line["event"] for line in lines]


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
