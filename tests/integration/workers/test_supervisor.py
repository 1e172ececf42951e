"""A host's supervisor starts and stops real worker processes as agents need them."""

import os
import time

import psutil
import pytest
import redis

from eventstore.errors import ConfigurationError
from eventstore.language.agent_commands import Terminate
from eventstore.retention import Retention
from tests.integration.workers.hosts import POOL, Site
from tests.pools import ORIGIN, raw_events, types
from tests.waiting import until


async def test_old_log_files_of_ended_workers_are_removed(site: Site) -> None:
    """A host that starts a worker for every peak would fill its disk with their logs."""
    await site.pool()
    old, new = (site.folder / "logs" / POOL / f"{name}.jsonl" for name in ("gone", "gone-lately"))
    old.parent.mkdir(parents=True)
    for file in (old, new):
        file.write_text("{}\n")
    long_ago = time.time() - 30 * 86_400
    os.utime(old, (long_ago, long_ago))
    await site.host()
    await until(lambda: not old.exists())
    assert new.exists()


async def test_fifteen_at_once_get_two_workers(site: Site) -> None:
    pool = await site.pool()
    await site.host()
    agent_ids = await site.run(pool, 15)
    counts = [o.agent_count for o in (await site.survey()).workers]
    assert (len(counts), sum(counts)) == (2, 15)
    assert types(site.url).count("worker.requested") == 2
    site.check(acknowledged=agent_ids)


async def test_agents_that_come_one_after_the_other_fill_one_worker_first(site: Site) -> None:
    pool = await site.pool()
    await site.host()
    for number in range(1, 16):
        await pool.spawn()
        await site.until_running(number)
    assert sorted(o.agent_count for o in (await site.survey()).workers) == [5, 10]


async def test_an_empty_worker_is_stopped_after_a_while_and_leaves_redis(site: Site) -> None:
    """Its agents too, after the host's retention: it sets when their hashes and its own expire."""
    pool = await site.pool(empty_worker_seconds=0.3)
    await site.host(retention=Retention(ended_ms=50_000))
    [agent_id] = await site.run(pool)
    [(worker_id, pid)] = (await site.workers()).items()
    await site.log.act(POOL, agent_id, Terminate(), ORIGIN)
    await until(lambda: not psutil.pid_exists(pid), timeout=8, what="the worker ended")
    assert types(site.url)[-1] == "worker.stopped"
    site.check(at_rest=True)
    with redis.Redis.from_url(site.url) as client:
        for key in (f"agent:{{{POOL}}}:{agent_id}", f"process:{{{POOL}}}:{worker_id}"):
            assert 30_000 < client.pttl(key) <= 50_000


async def test_a_class_that_cannot_be_imported_prevents_the_start(site: Site) -> None:
    (site.folder / "broken.py").write_text("import nothing_of_that_name\n")
    await site.pool()
    with pytest.raises(ConfigurationError, match="nothing_of_that_name"):
        await site.host(agent="broken:Thing")


async def test_an_import_that_starts_threads_runs_after_the_fork(site: Site) -> None:
    (site.folder / "threaded.py").write_text(
        "import threading\nfrom muster import Agent\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "class Threaded(Agent): ...\n"
    )
    pool = await site.pool()
    await site.host(agent="threaded:Threaded")
    await site.run(pool)


async def test_a_role_may_be_declared_to_be_imported_after_the_fork(site: Site) -> None:
    """Its import draws what must differ from worker to worker."""
    (site.folder / "drawing.py").write_text(
        "import os\nfrom pathlib import Path\nfrom muster import Agent\n"
        "IMPORTED_BY = os.getpid()\n"
        "class Drawing(Agent):\n"
        "    async def start(self, context):\n"
        "        Path(__file__).with_name(f'{os.getpid()}.pid').write_text(str(IMPORTED_BY))\n"
    )
    pool = await site.pool(agents_per_worker=1)
    await site.host(agent="drawing:Drawing", deferred_roles=("developer",))
    await site.run(pool, 2)
    written = {path.stem: path.read_text() for path in site.folder.glob("*.pid")}
    assert len(written) == 2
    assert all(own == imported for own, imported in written.items())


async def test_a_host_has_one_supervisor(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.supervisor.supervisor.LOCK_TIMEOUT_SECONDS", 0.1)
    await site.pool()
    await site.host("h1")
    with pytest.raises(ConfigurationError, match="already has a supervisor"):
        await site.host("h1")


async def test_due_restarts_are_requeued_and_late_spawns_withdrawn(site: Site) -> None:
    (site.folder / "once.py").write_text(
        "from muster import Agent\n"
        "class Once(Agent):\n"
        "    async def run(self, context):\n"
        "        if context.incarnation == 1:\n            raise ValueError('first')\n"
        "        async with context.idle():\n"
        "            import asyncio\n            await asyncio.Event().wait()\n"
    )
    pool = await site.pool(max_workers=1, agents_per_worker=1)
    await site.host(agent="once:Once")
    await pool.spawn()

    async def restarted() -> bool:
        [name] = await site.log.live(POOL)
        agent = await site.log.agent(POOL, name)
        return agent is not None and (agent.status, agent.incarnation) == ("running", 2)

    await until(restarted, timeout=15)
    late = await pool.spawn(expires_ms=site.log.now_ms(POOL) + 300)
    await until(lambda: "agent.terminated" in types(site.url))
    ended = next(e for e in raw_events(site.url) if e["type"] == "agent.terminated")
    assert (ended["subject"], ended["data"]) == (late.agent_id, '{"reason":"pending-timeout"}')
    site.check()
