"""Redis' memory does not grow with the number of agents that have ended."""

from collections import Counter
from typing import Any, NamedTuple

import pytest

from eventstore.log.reader import Reader
from eventstore.retention import Retention
from projector.verify.verification import verify
from tests.conftest import MakeServer
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.pools import ORIGIN, TestPool
from tests.turnover import EVENTS_OF_A_LIFE, EVENTS_OF_A_WORKER, turn_over
from tests.waiting import until

BRIEF = Retention(events=300, ended_ms=1_000, heartbeats_ms=1_000, keys_ms=1_000)
ALIVE = 20
SLACK_BYTES = 60_000
"""Clients' buffers and half-filled pages: less than any one kind of thing of 340 agents."""


def used_memory(client: Any) -> int:
    """Without the log of slow commands, which has 128 at most: all of a machine that is busy."""
    client.slowlog_reset()
    return int(client.info("memory")["used_memory"])


async def at_rest(client: Any) -> None:
    """All keys that expire have expired."""
    await until(
        lambda: not client.info("keyspace").get("db0", {}).get("expires"),
        timeout=20,
        what="the expiry of ended agents and workers",
    )


async def test_memory_is_bounded_by_living_agents_and_the_retention(
    redis_server: MakeServer, views_url: str
) -> None:
    """400 agents and their 4,000 events leave no more in Redis than 60 did.

    Each kind that goes is larger than the slack: hashes of ended agents (200 KB), of their
    operations (100 KB), events (1 MB). Heartbeats are counted by themselves.
    """
    server = redis_server()
    async with open_stage(server.url, views_url) as stage:
        stage.log.retention = BRIEF
        pool = await stage.pool(backlog_limit=100_000)
        other = await stage.pool("tester_pool")
        for _ in range(ALIVE):
            await other.spawn(labels={"team": "core"})
        with server.client() as client:
            async with stage.projecting(retention=BRIEF, trim_seconds=0.1):
                before = await left_by(60, stage, pool, client)
                after = await left_by(400, stage, pool, client)
        assert after.keys == before.keys
        assert after.memory - before.memory < SLACK_BYTES
        assert after.keys["agent:{tester_pool}"] == ALIVE
        assert "agent:{developer_pool}" not in after.keys
        written = 460 * EVENTS_OF_A_LIFE + 5 * EVENTS_OF_A_WORKER
        assert await stage.head(POOL) >= written
        assert (await verify(server.url, "", stage.database_url)).differences == []


class Left(NamedTuple):
    """What is in Redis: bytes, and keys of each kind."""

    memory: int
    keys: Counter[str]


async def left_by(agents: int, stage: Stage, pool: TestPool, client: Any) -> Left:
    """Let agents run and end, and wait until all that has ended is gone."""
    await turn_over(stage.log, pool.pool, agents)
    await stage.settle()
    await at_rest(client)
    for part, count in (("events", BRIEF.events), ("heartbeats", 0), ("signals", 0)):
        stream = f"pool:{{{POOL}}}:{part}"
        await until(lambda: client.xlen(stream) == count, what=f"{count} in {stream}")  # noqa: B023
    keys = Counter(kind(key.decode()) for key in client.scan_iter(count=1000))
    return Left(used_memory(client), keys)


def kind(key: str) -> str:
    """A key's name without the id in it."""
    several = ("agent:", "process:", ":spec:", ":inbox:", ":operation:", ":held:")
    return key.rpartition(":")[0] if any(part in key for part in several) else key


async def test_deleted_pools_have_no_share_in_what_is_read(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Nothing of them is sent; a log that lives is read as if they had never been."""
    reads: list[tuple[list[str], int]] = []
    read = Reader.read

    async def note(reader: Reader, positions: dict[str, str], **how: Any) -> Any:
        reads.append((list(positions), how["count"]))
        return await read(reader, positions, **how)

    async with open_stage(redis_url, views_url) as stage:
        await stage.pool()
        for n in range(30):
            pool = await stage.pool(f"gone{n}")
            await stage.catalogue.delete_pool(pool.pool, ORIGIN, reason="requested")
        async with stage.projecting():
            await stage.settle()
            monkeypatch.setattr(Reader, "read", note)
            await until(lambda: len({len(keys) for keys, _ in reads}) == 2)
            monkeypatch.undo()
    assert {count for _, count in reads} == {1000}
    heartbeats = [keys for keys, _ in reads if keys[0].endswith(":heartbeats")]
    assert heartbeats[0] == [f"pool:{{{POOL}}}:heartbeats"]
