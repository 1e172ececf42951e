"""Pools with a placer, supervised by real hosts: what is placed where, and what becomes of it."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from eventstore.language.agent_commands import Terminate
from eventstore.language.placement_policy import Cap
from eventstore.language.workers import Drain
from eventstore.log import placing
from eventstore.log.placing import Assignment
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import Leadership
from tests.integration.workers.hosts import POOL, Site
from tests.pools import ORIGIN, data, raw_events
from tests.waiting import until
from workers.supervisor import host_reports, pressures


async def counts(site: Site) -> list[int]:
    """The number of agents of each worker."""
    return sorted(o.agent_count for o in (await site.survey()).workers if o.worker.alive)


async def set_config(site: Site, **settings: Any) -> None:
    await site.catalogue.change_pool(POOL, lambda config: replace(config, **settings), ORIGIN)


async def running(site: Site, project: str = "p") -> list[str]:
    found = [await site.log.agent(POOL, name) for name in await site.log.live(POOL)]
    return [a.agent_id for a in found if a and a.status == "running" and a.project_id == project]


async def until_run(site: Site, count: int, project: str = "p", *, without: str = "") -> None:
    async def so_many() -> bool:
        found = await running(site, project)
        return len(found) == count and without not in found

    await until(so_many, what=f"{count} agents of project {project} run")


async def ready(site: Site, count: int) -> None:
    async def all_active() -> bool:
        return len(await site.workers()) == count

    await until(all_active, what=f"{count} workers")


@pytest.mark.parametrize(
    ("placement", "expected"), [("spread", [3, 3, 3]), ("pack", [0, 0, 9]), ("pull", None)]
)
async def test_agents_run_where_the_strategy_puts_them(
    site: Site, placement: str, expected: list[int] | None
) -> None:
    pool = await site.pool(placement=placement, min_workers=3)
    await site.host()
    await ready(site, 3)
    for count in range(1, 10):
        await pool.spawn()
        await site.until_running(count)
    found = await counts(site)
    assert sum(found) == 9
    assert expected is None or found == expected
    claims = [one for one in raw_events(site.url) if one["type"] == "agent.claimed"]
    by = "worker" if placement == "pull" else "supervisor"
    assert {one["actor"].partition(":")[0] for one in claims} == {by}
    written = {} if placement == "pull" else {"strategy": placement, "rooms": 3}
    assert written in map(data, claims)  # not in the first, if the third worker came just before
    site.check()


async def test_from_zero_agents_wait_for_workers_and_get_them(site: Site) -> None:
    pool = await site.pool(placement="affinity")
    await site.host()
    await site.run(pool, 25)
    assert await counts(site) == [5, 10, 10]
    site.check()


async def test_a_cap_holds_back_and_calls_for_no_worker(site: Site) -> None:
    pool = await site.pool(placement="pack", project_caps={"greedy": 3})
    await site.host()
    await asyncio.gather(*(pool.spawn(project="greedy") for _ in range(30)))
    await until_run(site, 3, "greedy")
    await asyncio.gather(*(pool.spawn(project="modest") for _ in range(4)))
    await until_run(site, 4, "modest")
    assert await counts(site) == [7]
    assert await site.log.held_up([POOL]) == {POOL: ("", [Cap("project-cap", "greedy", 3)])}
    first = (await running(site, "greedy"))[0]
    await site.log.act(POOL, first, Terminate(), ORIGIN)
    await until_run(site, 3, "greedy", without=first)
    await set_config(site, project_caps={"greedy": 6})
    await until_run(site, 6, "greedy")
    assert await counts(site) == [10]
    site.check()


async def test_an_agent_that_is_moved_keeps_its_place_under_a_cap(site: Site) -> None:
    pool = await site.pool(placement="pack", project_caps={"p": 2}, min_workers=2)
    await site.host()
    await ready(site, 2)
    for count in (1, 2):
        await pool.spawn()
        await until_run(site, count)
    before = await running(site)
    await pool.spawn()
    worker = next(o.worker for o in (await site.survey()).workers if o.agent_count)
    await site.log.act_on_worker(POOL, worker.worker_id, Drain(reason="test"), ORIGIN)

    async def moved() -> bool:
        return await site.incarnations() == {1: 1, 2: 2} and await running(site) == before

    await until(moved, what="the same agents run elsewhere")
    site.check()


async def test_changing_the_placement_both_ways_strands_nothing(site: Site) -> None:
    pool = await site.pool(placement="pack", project_caps={"p": 2}, min_workers=2)
    await site.host()
    await ready(site, 2)
    await asyncio.gather(*(pool.spawn() for _ in range(12)))
    await until_run(site, 2)
    await set_config(site, placement="pull", project_caps=None)
    await site.until_running(12)
    await set_config(site, placement="spread")
    for count in range(13, 19):
        await pool.spawn()
        await site.until_running(count)
    assert sum(await counts(site)) == 18
    site.check()


@pytest.mark.parametrize("written", [False, True])
async def test_a_placer_that_dies_between_its_steps_strands_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """Before its script has run, or after it, without the reply. Another host leads then."""
    pool = await site.pool(placement="spread", lease_seconds=1.0, min_workers=2)
    first = await site.host("h1", shutdown_seconds=1.0)
    await ready(site, 2)
    place, died = placing.place, asyncio.Event()

    async def dies(
        pool_log: PoolLog, lead: Leadership, assignments: Sequence[Assignment]
    ) -> list[str]:
        if lead.host != "h1":
            return await place(pool_log, lead, assignments)
        if written:
            await place(pool_log, lead, assignments[:1])
        died.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(placing, "place", dies)
    for _ in range(6):
        await pool.spawn()
    await died.wait()
    for task in first._tasks.values():  # it renews nothing, and stops in no good order
        task.cancel()
    await site.host("h2")
    await site.until_running(6)
    assert Counter(await site.incarnations()) == {1: 6}
    assert await counts(site) == [3, 3]
    site.check()


async def test_agents_are_kept_from_a_worker_that_is_short_of_memory(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `resource`: what workers report with their heartbeats counts."""
    monkeypatch.setattr(host_reports, "host_pressure", lambda: 0.0)  # other tests run here, too
    monkeypatch.setattr(pressures, "FULL_LAG_MS", 1e9)
    (site.folder / "large_agents.py").write_text(
        "import asyncio\n"
        "from workers.api.agent import Agent\n"
        "class Large(Agent):\n"
        "    async def run(self, context):\n"
        "        kept = b'x' * context.input.get('bytes', 0)\n"
        "        await asyncio.Event().wait()\n"
    )
    pool = await site.pool(placement="resource", min_workers=2, memory_max_mb=400)
    supervisor = await site.host(agent="large_agents:Large")
    await ready(site, 2)
    large = await pool.spawn(input=Raw(b'{"bytes":200000000}'))
    await site.until_running(1)
    found = await site.log.agent(POOL, large.agent_id)
    assert found is not None
    placer = supervisor._pools[POOL]._leader._placer
    await until(lambda: placer._pressures.get(found.worker_id, 0) > 0.4, what="the load is known")
    for count in (2, 3):
        await pool.spawn()
        await site.until_running(count)
    assert await site.log.held(POOL, found.worker_id) == [large.agent_id]
    site.check()
