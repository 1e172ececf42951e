"""Changed settings of a pool reach workers that run, and end none of them."""

from functools import partial
from typing import Any

from msgspec.structs import replace

from tests.integration.workers.hosts import POOL, Site
from tests.pools import ORIGIN, raw_events, types
from tests.waiting import until

LONG: dict[str, Any] = {"lease_seconds": 20.0, "renew_seconds": 1.5}
SHORT: dict[str, Any] = {"lease_seconds": 1.0, "renew_seconds": 0.2}


async def leases(site: Site) -> set[float]:
    return {observed.lease_seconds for observed in (await site.survey()).workers}


async def test_a_lease_is_judged_by_its_length_when_it_was_renewed(site: Site):
    """A worker that renews every 1.5 s is not dead because leases are to last a second."""
    pool = await site.pool(**LONG)
    await site.host()
    await site.run(pool)
    await until(lambda: has_lease(site, LONG["lease_seconds"]))
    for after in (SHORT, LONG):
        changed = partial(replace, **after)
        await site.catalogue.change_pool(POOL, changed, ORIGIN)
        seconds = after["lease_seconds"]
        await until(partial(has_lease, site, seconds), what="the worker has the setting")
        await site.until_running(1)
    assert "worker.lost" not in types(site.url)
    assert "worker.suspect" not in types(site.url)
    site.check()


async def has_lease(site: Site, seconds: float) -> bool:
    return await leases(site) == {seconds}


async def test_agents_that_run_follow_changed_settings(site: Site):
    """For instance how many failures are allowed: the next one counts by the new limit."""
    (site.folder / "failing_agents.py").write_text(
        "import asyncio, pathlib\n"
        "from workers.api.agent import Agent\n"
        "class Failing(Agent):\n"
        "    async def run(self, context):\n"
        "        while not pathlib.Path(__file__).with_name('fail').exists():\n"
        "            await asyncio.sleep(0.05)\n"
        "        raise RuntimeError\n"
    )
    pool = await site.pool(restart_limit=5, backoff_min_seconds=30.0, backoff_max_seconds=30.0)
    await site.host(agent="failing_agents:Failing")
    await site.run(pool)
    changes = {"restart_limit": 0, "renew_seconds": 0.2, "lease_seconds": 11.0}
    await site.catalogue.change_pool(POOL, lambda config: replace(config, **changes), ORIGIN)
    await until(lambda: has_lease(site, 11.0), what="the worker has the setting")
    (site.folder / "fail").touch()
    await until(lambda: any(e["type"] == "agent.failed" for e in raw_events(site.url)))
