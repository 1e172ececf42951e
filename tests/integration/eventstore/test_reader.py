"""Streams are read on from a position, however many there are."""

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis

from eventstore.errors import LogUnreachable
from eventstore.log import reader as module
from eventstore.log.reader import Reader
from tests.waiting import until

NAMES = [f"s{n}" for n in range(7)]


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP", 3)


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def calls(server: redis.Redis) -> int:
    return int(server.info("commandstats").get("cmdstat_xread", {"calls": 0})["calls"])


def waiting(server: redis.Redis) -> int:
    return int(server.info("clients")["blocked_clients"])


def is_waiting(server: redis.Redis, groups: int) -> bool:
    return waiting(server) == groups


async def test_what_is_added_to_any_stream_is_read_once(
    server: redis.Redis, redis_url: str
) -> None:
    reader, positions, found = Reader(redis_url), dict.fromkeys(NAMES, "0"), []
    for number, name in enumerate([*NAMES, *reversed(NAMES), *NAMES]):
        reading = asyncio.ensure_future(reader.read(positions))
        await until(lambda: waiting(server) == 3)
        server.xadd(name, {"n": number})
        for stream, entries in (await reading).items():
            positions[stream] = entries[-1][0].decode()
            found += [int(fields[1]) for _, fields in entries]
    await reader.close()
    assert found == list(range(3 * len(NAMES)))


async def test_only_the_group_that_was_read_is_asked_for_again(
    server: redis.Redis, redis_url: str
) -> None:
    reader, positions = Reader(redis_url), dict.fromkeys(NAMES, "0")
    reading = asyncio.ensure_future(reader.read(positions))
    await until(lambda: waiting(server) == 3)
    before = calls(server)
    for _ in range(5):
        server.xadd("s4", {"a": "b"})
        positions["s4"] = (await reading)["s4"][-1][0].decode()
        reading = asyncio.ensure_future(reader.read(positions))
        await until(lambda: waiting(server) == 3)
    # Each call that waited was counted when it came, and once more when it was answered.
    assert calls(server) - before <= 10
    reading.cancel()
    await reader.close()


async def test_entries_of_a_position_that_changed_meanwhile_are_read_from_there(
    server: redis.Redis, redis_url: str
) -> None:
    reader, positions = Reader(redis_url), dict.fromkeys(NAMES, "0")
    reading = asyncio.ensure_future(reader.read(positions))
    await until(lambda: waiting(server) == 3)
    server.xadd("s0", {"a": "b"})
    assert (await reading).keys() == {"s0"}
    first: Any = server.xadd("s5", {"a": "1"})
    server.xadd("s5", {"a": "2"})
    positions.update(s0="$", s5=first.decode())
    [(_, fields)] = (await reader.read(positions))["s5"]
    assert fields == [b"a", b"2"]
    assert len((await reader.read({**positions, "s5": "0"}, block=False))["s5"]) == 2
    await reader.close()


async def test_a_new_stream_interrupts_no_call(server: redis.Redis, redis_url: str) -> None:
    """The catalogue, the first, has just been read where it is added."""
    reader, positions = Reader(redis_url), dict.fromkeys(NAMES, "0")
    before = int(server.info("stats")["total_connections_received"])
    for number in range(20):
        reading = asyncio.ensure_future(reader.read(positions))
        groups = 1 + (6 + number) // 3
        await until(partial(is_waiting, server, groups))
        server.xadd("s0", {"a": "b"})
        positions["s0"] = (await reading)["s0"][-1][0].decode()
        positions[f"new{number}"] = "0"
    made = int(server.info("stats")["total_connections_received"]) - before
    await reader.close()
    assert made <= 3 + 20 // 3 + 1, "one for each group"


async def test_an_end_of_all_connections_is_an_error_once(
    server: redis.Redis, redis_url: str
) -> None:
    """Also where some end later, or while nothing is read."""
    reader, positions = Reader(redis_url), dict.fromkeys(NAMES, "0")
    for end in (reader.abort, partial(kill_readers, server, 1), partial(kill_readers, server, 3)):
        reading = asyncio.ensure_future(reader.read(positions))
        await until(partial(is_waiting, server, 3))
        await end()
        with pytest.raises(LogUnreachable):
            await reading
        await kill_readers(server, 3)
        server.xadd("s6", {"a": "b"})
        await asyncio.sleep(0.05)
        found = await reader.read(positions)
        positions["s6"] = found["s6"][-1][0].decode()
    await reader.close()


async def kill_readers(server: redis.Redis, count: int) -> None:
    found = [one["id"] for one in server.client_list() if one["cmd"] == "xread"]
    for number in found[:count]:
        server.client_kill_filter(_id=number)
