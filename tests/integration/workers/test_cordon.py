"""Workers that get no more agents: cordoned, or on the way to a drain."""

import time

from eventstore.language.agent_commands import Terminate
from eventstore.language.workers import Cordon, Uncordon
from tests.integration.workers.hosts import POOL, Site
from tests.pools import ORIGIN, TestPool, data, raw_events
from tests.waiting import until


async def worker_of(pool: TestPool, agent_id: str) -> str:
    agent = await pool.log.agent(POOL, agent_id)
    assert agent is not None
    return agent.worker_id


async def test_agents_of_a_cordoned_worker_run_on_and_others_get_another_one(site: Site) -> None:
    pool = await site.pool()
    await site.host()
    first = (await site.run(pool))[0]
    cordoned = await worker_of(pool, first)
    await site.log.act_on_worker(POOL, cordoned, Cordon(reason="odd"), ORIGIN)
    second = await pool.spawn()
    await site.until_running(2)
    other = await worker_of(pool, second.agent_id)
    assert (await worker_of(pool, first), other != cordoned) == (cordoned, True)
    await site.log.act(POOL, second.agent_id, Terminate(), ORIGIN)
    await site.log.act_on_worker(POOL, other, Cordon(reason="odd"), ORIGIN)
    await site.log.act_on_worker(POOL, cordoned, Uncordon(reason="t"), ORIGIN)
    third = await pool.spawn()
    await site.until_running(2)
    assert await worker_of(pool, third.agent_id) == cordoned
    site.check()


async def test_agents_may_end_until_the_deadline_of_a_drain_and_are_released_then(
    site: Site,
) -> None:
    """A worker drains before it when it is empty."""
    pool = await site.pool(agents_per_worker=1)
    await site.host()
    early, late = await site.run(pool, 2)
    ending, other = await worker_of(pool, early), await worker_of(pool, late)
    far = Cordon(reason="a new kernel", drain_ms=site.log.now_ms(POOL) + 60_000)
    near = Cordon(reason="a new kernel", drain_ms=site.log.now_ms(POOL) + 500)
    await site.log.act_on_worker(POOL, ending, far, ORIGIN)
    await site.log.act_on_worker(POOL, other, near, ORIGIN)
    began = time.monotonic()
    await site.log.act(POOL, early, Terminate(), ORIGIN)

    async def moved() -> bool:
        agent = await pool.log.agent(POOL, late)
        return agent is not None and (agent.status, agent.incarnation) == ("running", 2)

    await until(moved, timeout=10, what="the other agent was released and runs elsewhere")
    assert time.monotonic() - began >= 0.4
    events = [one for one in raw_events(site.url) if one["type"] == "worker.draining"]
    assert {one["subject"]: data(one)["reason"] for one in events} == dict.fromkeys(
        (ending, other), "a new kernel"
    )
    assert await worker_of(pool, late) not in {ending, other}
    site.check()
