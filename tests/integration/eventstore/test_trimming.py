"""What the trim script removes from Redis, and what it must not, on both servers."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore.connection.calls import execute_many
from eventstore.connection.clients import Client
from eventstore.errors import LogMissing, MemoryExhausted, RolledBack
from eventstore.keys import Keys
from eventstore.log.log import Log
from eventstore.retention import Retention, TrimResult
from tests.conftest import MakeServer
from tests.integration.projector.stage import POOL
from tests.pools import TestPool, open_pool, raw_events

ALL_MS = 10**14
"""Older than any event."""


@pytest.fixture
async def pool(any_redis_url: str) -> AsyncIterator[TestPool]:
    async with open_pool(any_redis_url) as pool:
        yield pool


def retaining(pool: TestPool, **retention: int) -> Log:
    """The pool's log with another retention."""
    chosen = {"age_ms": ALL_MS, "events": 10**9, "heartbeats_ms": ALL_MS, **retention}
    return Log(pool.log.client, Keys(), retention=Retention(**chosen))


def seqs(url: str) -> list[int]:
    return [int(event["seq"]) for event in raw_events(url)]


async def written(pool: TestPool, number: int) -> None:
    for _ in range(number):
        await pool.spawn()


async def old_events(pool: TestPool, counts: list[int], *, data: str = "{}") -> None:
    """Add events to the stream: so many in each millisecond, from a time long ago."""
    times = [ms for ms, some in enumerate(counts, 1000) for _ in range(some)]
    stream, meta = (pool.log.keys.pool(pool.name, part) for part in ("events", "meta"))
    named = (("type", "x", "version", "1", "seq", f"{n}", "data", data) for n in count(1))
    added = [("XADD", stream, f"{ms}-*", *fields) for ms, fields in zip(times, named, strict=False)]
    await execute_many(pool.log.client, [*added, ("HSET", meta, "seq", str(len(times)))])


async def test_events_beyond_the_number_are_trimmed_and_the_newest_stay(
    pool: TestPool, any_redis_url: str
) -> None:
    await written(pool, 20)
    trimmed = await retaining(pool, events=7).trim(POOL, 1, 20)
    assert trimmed == TrimResult(events=13, others=0, more=False)
    assert seqs(any_redis_url) == list(range(14, 21))


async def test_events_that_are_not_archived_stay_however_old_and_many(
    pool: TestPool, any_redis_url: str
) -> None:
    """Never by length, never only by age."""
    await written(pool, 20)
    await asyncio.sleep(0.002)
    await retaining(pool, events=1, age_ms=0).trim(POOL, 1, 12)
    assert seqs(any_redis_url) == list(range(13, 21))
    await retaining(pool, events=1, age_ms=0).trim(POOL, 1, 0)
    assert seqs(any_redis_url) == list(range(13, 21))


async def test_the_last_event_stays_for_the_projector_to_compare(
    pool: TestPool, any_redis_url: str
) -> None:
    await written(pool, 5)
    for _ in range(2):
        await retaining(pool, events=1, age_ms=0).trim(POOL, 1, 5)
        assert seqs(any_redis_url) == [5]
    await written(pool, 1)
    assert seqs(any_redis_url) == [5, 6]


async def test_for_an_archive_of_another_generation_nothing_is_trimmed(
    pool: TestPool, any_redis_url: str
) -> None:
    await written(pool, 5)
    assert (await retaining(pool, events=1).trim(POOL, 2, 5)).events == 0
    assert seqs(any_redis_url) == [1, 2, 3, 4, 5]


async def test_a_log_below_the_archive_is_not_trimmed(pool: TestPool, any_redis_url: str) -> None:
    """Redis has lost writes: what it still has is needed to find out which."""
    await written(pool, 5)
    log = retaining(pool, events=1)
    log.raise_high_water_mark(POOL, 1, 6)
    with pytest.raises(RolledBack):
        await log.trim(POOL, 1, 6)
    with pytest.raises(LogMissing):
        await log.trim("nowhere", 1, 6)
    assert seqs(any_redis_url) == [1, 2, 3, 4, 5]


async def test_events_are_trimmed_by_age_to_the_millisecond(
    pool: TestPool, any_redis_url: str
) -> None:
    """Many in one millisecond, as a busy pool writes them."""
    await old_events(pool, [3, 250, 1, 400])
    now = (await retaining(pool).trim(POOL, 1, 654)).events
    assert now == 0
    server = int((await pool.log.client.execute_command("TIME"))[0]) * 1000
    old = retaining(pool, age_ms=server - 1_000_000)  # long after all of them
    assert (await old.trim(POOL, 1, 253)).events == 253
    assert seqs(any_redis_url) == list(range(254, 655))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    archived=st.floats(0, 1),
    stays=st.integers(1, 60),
)
async def test_exactly_the_archived_events_above_the_number_are_trimmed(
    redis_url: str, counts: list[int], archived: float, stays: int
) -> None:
    """For any spread of events over time, to the event."""
    async with open_pool(redis_url) as pool:
        await pool.log.client.execute_command("FLUSHALL")
        await pool.log.create_catalogue()
        await pool.log.initialise(POOL)
        await old_events(pool, counts)
        total = sum(counts)
        archived_seq = int(total * archived)
        trimmed = await retaining(pool, events=stays).trim(POOL, 1, archived_seq)
        removed = max(min(archived_seq, total - stays, total - 1), 0)
        assert trimmed.events == removed
        assert seqs(redis_url) == list(range(removed + 1, total + 1))


async def test_many_events_are_trimmed_in_bounded_steps(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis serves no other client while a script runs."""
    monkeypatch.setattr("eventstore.log.log.TRIM_BATCH", 300)
    async with open_pool(redis_url) as pool:
        await old_events(pool, [100] * 12)
        trims: list[TrimResult] = []
        while not trims or trims[-1].more:
            trims.append(await retaining(pool, events=10).trim(POOL, 1, 1200))
        assert max(trimmed.events for trimmed in trims) <= 300
        assert sum(trimmed.events for trimmed in trims) == 1190


async def test_heartbeats_and_signals_of_a_pool_without_workers_are_trimmed(
    pool: TestPool, any_redis_url: str
) -> None:
    """Their writers trim them too, but only when they write. Other keys stay."""
    await pool.worker("w")
    client = pool.log.client
    for stream in ("heartbeats", "signals"):
        for number in range(150):
            entry = ("XADD", f"pool:{{{POOL}}}:{stream}", f"{1000 + number}-0", "kind", "x")
            await client.execute_command(*entry) if stream == "heartbeats" else None
    before = {key for key in await client.execute_command("KEYS", "*") if b"signals" not in key}
    await asyncio.sleep(0.002)
    trimmed = await retaining(pool, heartbeats_ms=0).trim(POOL, 1, 0)
    assert trimmed.events == 0
    for stream in ("heartbeats", "signals"):
        assert await client.execute_command("XLEN", f"pool:{{{POOL}}}:{stream}") == 0
    after = {key for key in await client.execute_command("KEYS", "*") if b"signals" not in key}
    assert after == before


async def test_at_the_memory_limit_trimming_makes_spawns_possible_again(
    redis_server: MakeServer,
) -> None:
    """Everything but a spawn still works there, also trimming."""
    server = redis_server()
    async with open_pool(server.url) as pool:
        await old_events(pool, [50] * 20, data="x" * 1_000)
        with server.client() as client:
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]) - 300_000)
            with pytest.raises(MemoryExhausted):
                await pool.spawn()
            log = retaining(pool, events=1)
            while (await log.trim(POOL, 1, 1_000)).more:
                pass
            await pool.spawn()


async def test_a_trimmed_log_is_restored_from_the_append_only_file(
    redis_server: MakeServer,
) -> None:
    """The append-only file has the result of trimming by nodes."""
    server = redis_server(appendfsync="always")
    async with open_pool(server.url) as pool:
        await old_events(pool, [7] * 60)
        await retaining(pool, events=100).trim(POOL, 1, 400)
        remaining = seqs(server.url)
        assert remaining == list(range(321, 421))
    server.kill9()
    server.start()
    assert seqs(server.url) == remaining
    client = Client(server.url)
    log = Log(client, Keys(), retention=Retention(events=10))
    assert (await log.trim(POOL, 1, 400)).events == 80
    await client.aclose()
