"""Memory of Redis after a million events of a hundred thousand agents: `-m bench -n 0 -s`.

Through the real scripts and a real projector, without HTTP. A thousand agents stay alive. What is
left is measured twice in the same state: after the first five thousand, and after all of them.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from eventstore.retention import Retention
from projector.verify.verification import verify
from tests.conftest import MakeServer
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.turnover import EVENTS_OF_A_LIFE, turn_over
from tests.waiting import until

AGENTS = 100_000
WARM_UP = 5_000
ALIVE = 1_000
BRIEF = Retention(events=10_000, ended_ms=5_000, heartbeats_ms=5_000, keys_ms=5_000)
GROWTH_MAX = 1_000_000
"""Bytes: a hundredth of what the hashes of the ended agents alone would take."""
PEAK_MAX = 60_000_000
"""Bytes above what is used at rest: what ends within five seconds, and backlogs of trimming."""


@pytest.mark.timeout(3600)
async def test_a_million_events_leave_what_lives_and_the_retention(
    redis_server: MakeServer, tmp_path: Path
) -> None:
    server = redis_server()
    async with open_stage(server.url, f"sqlite:///{tmp_path / 'views.db'}") as stage:
        stage.log.retention = BRIEF
        pool = await stage.pool(backlog_limit=10**6)
        other = await stage.pool("tester_pool")
        for _ in range(ALIVE):
            await other.spawn(labels={"team": "core"})
        with server.client() as client:
            async with stage.projecting(retention=BRIEF, trim_seconds=1.0):
                began = time.monotonic()
                await turn_over(stage.log, pool.pool, WARM_UP)
                before = await at_rest(stage, client)
                peak = asyncio.create_task(highest(client))
                await turn_over(stage.log, pool.pool, AGENTS - WARM_UP)
                seconds = time.monotonic() - began
                top = await ended(peak)
                after = await at_rest(stage, client)
        head = await stage.head(POOL)
        report = await verify(server.url, "", stage.database_url)
    print(
        f"\n{AGENTS:,} agents, {head:,} events in {seconds:.0f} s; used_memory {before:,} after"
        f" {WARM_UP:,} agents, {after:,} after all, at most {top:,} on the way; {ALIVE:,} live,"
        f" {BRIEF.events:,} events kept"
    )
    assert head >= AGENTS * EVENTS_OF_A_LIFE
    assert after - before < GROWTH_MAX
    assert top - before < PEAK_MAX
    assert report.differences == []


async def at_rest(stage: Stage, client: Any) -> int:
    """Redis' memory once all that is over has left."""
    await stage.settle()
    stream = f"pool:{{{POOL}}}:"
    await until(
        lambda: not client.info("keyspace").get("db0", {}).get("expires"), timeout=120, interval=0.2
    )
    await until(lambda: client.xlen(f"{stream}events") == BRIEF.events, timeout=60)
    await until(lambda: client.xlen(f"{stream}heartbeats") == 0, timeout=60)
    return used_memory(client)


async def highest(client: Any) -> int:
    """The most memory that was used, until cancelled."""
    top = 0
    try:
        while True:
            top = max(top, used_memory(client))
            await asyncio.sleep(0.25)
    except asyncio.CancelledError:
        return top


async def ended(task: "asyncio.Task[int]") -> int:
    task.cancel()
    return await task


def used_memory(client: Any) -> int:
    return int(client.info("memory")["used_memory"])
