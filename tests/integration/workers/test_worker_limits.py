"""Workers that are too large or too old: replaced in order, or killed."""

from pathlib import Path

import msgspec
import pytest

from tests.integration.workers.hosts import Site
from tests.integration.workers.roles import Quiet
from tests.pools import raw_events, types
from tests.waiting import until
from tests.worker_pool import QUICK, WorkerPool, eventually
from workers.host.process_tree import all_processes
from workers.process import retirement

GROWING = """
import asyncio
from muster import Agent

class Growing(Agent):
    async def run(self, context):
        if context.incarnation == 1:
            self.data = b"x" * 300_000_000
        await asyncio.Event().wait()
"""


async def test_a_worker_that_is_too_large_is_drained(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its agents are released to run elsewhere: no failure of theirs."""
    monkeypatch.setattr(retirement, "SETTLED_SECONDS", 0.0)
    pool.config = msgspec.structs.replace(QUICK, memory_max_mb=1)
    worker = await pool.worker(Quiet)
    agent_id = await pool.spawn()
    assert await worker.wait() == "memory"
    if "agent.claimed" in await pool.types(agent_id):
        assert (await pool.data(agent_id, "agent.released"))["reason"] == "memory"
    assert (await pool.types("w1"))[-2:] == ["worker.draining", "worker.stopped"]


async def test_a_worker_that_is_too_old_is_drained(pool: WorkerPool) -> None:
    pool.config = msgspec.structs.replace(QUICK, max_worker_age_seconds=0.3)
    worker = await pool.worker(Quiet)
    assert await worker.wait() == "age"


async def test_a_worker_far_above_its_memory_is_killed_by_its_supervisor(site: Site) -> None:
    (site.folder / "growing.py").write_text(GROWING)
    pool = await site.pool(memory_max_mb=150)
    await site.host(agent="growing:Growing")
    await pool.spawn()
    await until(lambda: "worker.lost" in types(site.url), what="it is killed")
    [lost] = [e for e in raw_events(site.url) if e["type"] == "worker.lost"]
    assert "above 1.5 times memory_max_mb" in msgspec.json.decode(lost["data"])["reason"]

    async def requeued() -> bool:  # until then it still counts as running
        return await site.incarnations() == {2: 1}

    await until(requeued, what="its agent is to run again")
    await site.until_running(1)
    [worker] = (await site.workers()).values()
    zygote = all_processes()[worker].parent
    scores = [Path(f"/proc/{pid}/oom_score_adj").read_text() for pid in (worker, zygote)]
    assert scores == ["500\n", Path("/proc/self/oom_score_adj").read_text()]


async def test_a_heartbeat_has_the_memory_of_its_worker(pool: WorkerPool) -> None:
    await pool.worker(Quiet)

    async def reported() -> bool:
        beats = await pool.entries("heartbeats")
        return any(msgspec.json.decode(b["data"])["memory_bytes"] > 10_000_000 for b in beats)

    await eventually(reported)
