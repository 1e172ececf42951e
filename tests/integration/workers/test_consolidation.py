"""A leader empties workers: with real ones, and with every kind of interleaving."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.language.agent_commands import Release, Terminate
from eventstore.language.consolidation import plan_moves
from eventstore.language.events import PoolConsolidationRequested
from eventstore.language.pool_config import PoolConfig
from eventstore.language.scale_policy import BehaviourSettings
from eventstore.language.workers import Cordon, StopWorker
from eventstore.log.consolidation import request_consolidation
from eventstore.log.survey import Survey
from eventstore.steps.step import Fence
from tests.chaos.judge import judge
from tests.chaos.planted_operations import moves_unlimited
from tests.integration.workers.hosts import POOL, SHORT_SECONDS, Site, abandon
from tests.integration.workers.test_isolation import Ended
from tests.integration.workers.test_stale_surveys import context_of
from tests.pools import ORIGIN, TestPool, data, open_pool, raw_events
from tests.waiting import until
from workers.supervisor import consolidator
from workers.supervisor.leader import Leader
from workers.supervisor.worker_monitor import WorkerMonitor

SOON = BehaviourSettings(window_seconds=0.5)


async def fragmented(site: Site, pool: TestPool) -> list[str]:
    """Three workers of four slots with one agent each; returns these."""
    await site.run(pool, 12)
    held = {o.worker.worker_id: await site.log.held(POOL, o.worker.worker_id)
            for o in (await site.survey()).workers}  # fmt: skip
    ending = [agent_id for ids in held.values() for agent_id in ids[1:]]
    await asyncio.gather(*(site.log.act(POOL, one, Terminate(), ORIGIN) for one in ending))
    await site.until_running(3)
    return [ids[0] for ids in held.values()]


async def consolidate(site: Site) -> None:
    def change(config: PoolConfig) -> PoolConfig:
        return replace(config, consolidate="auto")

    await site.catalogue.change_pool(POOL, change, ORIGIN)


async def until_workers(site: Site, count: int) -> None:
    async def left() -> bool:
        return len((await site.survey()).workers) == count  # one that drains is still there

    await until(left, timeout=15, what=f"{count} workers are left")


def released(site: Site) -> list[str]:
    found = [e for e in raw_events(site.url) if e["type"] == "agent.released"]
    return [data(e)["reason"] for e in found]


async def test_agents_in_many_workers_are_moved_into_few(site: Site) -> None:
    """Two of three go on in the third worker; no other one is started, and none is lost."""
    pool = await site.pool(agents_per_worker=4, moves_per_minute=600, down=SOON)
    await site.host()
    agents = await fragmented(site, pool)
    await consolidate(site)
    await until_workers(site, 1)
    await site.until_running(3)
    assert sorted(await site.log.live(POOL)) == sorted(agents)
    assert released(site) == ["moved", "moved"]
    assert await site.incarnations() == {1: 1, 2: 2}
    kinds = Counter(event["type"] for event in raw_events(site.url))
    assert (kinds["worker.cordoned"], kinds["worker.stopped"], kinds["worker.lost"]) == (2, 2, 0)
    assert kinds["worker.requested"] == 3
    site.check()


async def test_consolidation_on_request_ends_by_itself(site: Site) -> None:
    pool = await site.pool(agents_per_worker=4, moves_per_minute=600, down=SOON)
    await site.host()
    await fragmented(site, pool)

    async def surplus() -> bool:
        return (await site.survey()).surplus == 2

    await until(surplus, what="the leader says how many workers fewer would do")
    assert released(site) == []
    body = PoolConsolidationRequested(reason="night")
    await request_consolidation(site.log, POOL, body, ORIGIN)
    await until_workers(site, 1)

    async def ended() -> bool:
        return (await site.survey()).consolidation is None

    await until(ended)
    [asked] = [e for e in raw_events(site.url) if e["type"] == "pool.consolidation_requested"]
    cordons = [e for e in raw_events(site.url) if e["type"] == "worker.cordoned"]
    assert {event["causation_id"] for event in cordons} == {asked["event_id"]}
    site.check()


async def test_agents_that_never_say_they_are_idle_stay(site: Site) -> None:
    (site.folder / "busy.py").write_text(
        "import asyncio\nfrom muster import Agent\n"
        "class Busy(Agent):\n    async def run(self, context):\n"
        "        await asyncio.Event().wait()\n"
    )
    pool = await site.pool(agents_per_worker=4, moves_per_minute=600, down=SOON)
    await site.host(agent="busy:Busy")
    await fragmented(site, pool)
    await consolidate(site)

    async def surplus() -> bool:
        return (await site.survey()).surplus == 2

    await until(surplus)
    await asyncio.sleep(0.6)
    assert len(await site.workers()) == 3
    assert released(site) == []


async def test_where_the_leader_is_killed_another_supervisor_goes_on(site: Site) -> None:
    """It keeps the cordon, and moves no agent more in the same minute than the first one might."""
    pool = await site.pool(
        agents_per_worker=4, moves_per_minute=1, down=SOON, lease_seconds=SHORT_SECONDS
    )
    first = await site.host("h1")
    await fragmented(site, pool)
    await consolidate(site)
    await until_workers(site, 2)

    async def emptying() -> bool:
        return any(o.emptying for o in (await site.survey()).workers)

    await until(emptying, what="the second one is cordoned, and waits for its minute")
    await site.host("h2")
    await abandon(first)
    await led(site, max_workers=8)
    await led(site, max_workers=9)  # so there was a whole round before
    assert released(site) == ["moved"]
    await led(site, moves_per_minute=600)
    await until_workers(site, 1)
    assert released(site) == ["moved", "moved"]
    assert not any(e["type"] == "worker.uncordoned" for e in raw_events(site.url))
    await site.host("h1")  # which ends its worker
    site.check()


async def led(site: Site, **config: Any) -> None:
    """Change the pool, and wait until a leader has published it."""

    def change(before: PoolConfig) -> PoolConfig:
        return replace(before, **config)

    changed = await site.catalogue.change_pool(POOL, change, ORIGIN)
    version = changed.catalogue.pools[POOL].config_version

    async def published() -> bool:
        return (await site.survey()).config_version >= version

    await until(published, timeout=15, what=f"a leader has seen {config}")


# ---- without processes ----------------------------------------------------------------------


CONFIG: dict[str, Any] = {
    "agents_per_worker": 2,
    "consolidate": "auto",
    "moves_per_minute": 600,
    "down": BehaviourSettings(window_seconds=0.0),
}


class Launches(Ended):
    """Workers that are ordered do not start."""

    async def launch(self, *_: object) -> None:
        pass


def new_leader(pool: TestPool) -> Leader:
    context = context_of(pool, local=Launches())
    return Leader(context, WorkerMonitor(context))


async def lead(
    pool: TestPool, leader: Leader, seconds: float, survey: Survey | None = None
) -> None:
    survey = survey or await pool.log.survey(POOL)
    await leader.reconcile(replace(survey, ts=survey.ts + int(seconds * 1000)), seconds)


async def spread(pool: TestPool) -> list[Fence]:
    """Two workers of two slots with one agent each."""
    fences = []
    for name in ("w1", "w2"):
        fences.append(await pool.worker(name, slots=2))
        await pool.spawn()
        await pool.claim(fences[-1], 1, starts="developer")
    return fences


async def test_the_next_leader_goes_on_with_what_is_being_emptied(site: Site) -> None:
    pool = await site.pool(**{**CONFIG, "down": BehaviourSettings(window_seconds=30.0)})
    await spread(pool)
    leader = new_leader(pool)
    for seconds in (1.0, 40.0):
        await lead(pool, leader, seconds)
    await leader.resign()
    await lead(pool, new_leader(pool), 42.0)
    survey = await site.survey()
    assert [o.worker.cordoned for o in survey.workers] == ["consolidation", ""]


async def test_the_next_leader_heeds_the_rates_of_the_one_before(site: Site) -> None:
    up = BehaviourSettings(workers_per_minute=2)
    pool = await site.pool(agents_per_worker=1, max_workers=9, up=up)
    await asyncio.gather(*(pool.spawn() for _ in range(5)))
    leader = new_leader(pool)
    await lead(pool, leader, 1.0)
    await leader.resign()
    await lead(pool, new_leader(pool), 2.0)
    assert [e["type"] for e in raw_events(site.url)].count("worker.requested") == 2


@pytest.mark.parametrize("ignored", [False, True])
async def test_the_judge_says_where_the_budget_of_moves_is_ignored(
    site: Site, monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    monkeypatch.setattr(consolidator, "plan_moves", plan_moves)
    if ignored:
        moves_unlimited()
    pool = await site.pool(**{**CONFIG, "agents_per_worker": 4, "moves_per_minute": 1})
    for name in ("w1", "w2", "w3"):
        fence = await pool.worker(name, slots=4)
        await pool.spawn()
        await pool.claim(fence, 1, starts="developer")
    leader = new_leader(pool)
    for seconds in (1.0, 2.0):
        await lead(pool, leader, seconds)
    found = [one.why for one in judge(site.url) if one.invariant == 9]
    assert found == ["more than 1 asked to move in a minute"] * ignored


async def test_a_spawn_that_needs_the_slots_gets_them_back(site: Site) -> None:
    pool = await site.pool(**CONFIG)
    _, other = await spread(pool)
    leader = new_leader(pool)
    await lead(pool, leader, 1.0)
    assert [o.emptying for o in (await site.survey()).workers] == [True, False]
    await asyncio.gather(pool.spawn(), pool.spawn())
    await pool.claim(other)
    await lead(pool, leader, 2.0)
    survey = await site.survey()
    assert not any(o.worker.cordoned for o in survey.workers)
    assert len(survey.workers) == 2, "none was ordered"
    [freed] = [data(e) for e in raw_events(site.url) if e["type"] == "worker.uncordoned"]
    assert freed["reason"] in {"its slots are needed", "agents wait for its slots"}


async def test_an_operators_cordon_is_not_lifted(site: Site) -> None:
    pool = await site.pool(**CONFIG)
    await spread(pool)
    await pool.log.act_on_worker(POOL, "w1", Cordon(reason="its memory grows"), ORIGIN)
    leader = new_leader(pool)
    await lead(pool, leader, 1.0)
    await lead(pool, leader, 2.0)
    assert [o.worker.cordoned for o in (await site.survey()).workers] == ["its memory grows", ""]


OPERATIONS = st.one_of(
    st.just(("spawn", 0)),
    st.tuples(st.sampled_from(("claim", "end", "move", "stop")), st.integers(0, 3)),
    st.tuples(st.just("survey"), st.just(0)),
    st.tuples(st.just("lead"), st.integers(0, 2)),
    st.just(("elect", 0)),
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(OPERATIONS, min_size=10, max_size=40))
async def test_a_worker_that_holds_agents_is_never_ended_to_have_fewer(
    redis_url: str, operations: list[tuple[str, int]]
) -> None:
    """Leaders act on surveys that are old by now, while workers claim, release and end."""
    async with open_pool(redis_url, **CONFIG) as pool:
        await pool.log.client.execute_command("FLUSHALL")
        await pool.log.create_catalogue()
        await pool.log.initialise(POOL)
        fences = [await pool.worker(f"w{n}", slots=2) for n in range(4)]
        leader, surveys = new_leader(pool), [await pool.log.survey(POOL)]
        for number, (what, which) in enumerate(operations):
            await act(pool, what, which, fences)
            if what == "survey":
                surveys = [await pool.log.survey(POOL), *surveys[:2]]
            elif what == "elect":
                await leader.resign()
                leader = new_leader(pool)
            elif what == "lead":
                await lead(pool, leader, number * 7.0, surveys[min(which, len(surveys) - 1)])
        check_ends(redis_url)


async def act(pool: TestPool, what: str, which: int, fences: list[Fence]) -> None:
    """What clients and workers do."""
    if what == "spawn":
        await pool.spawn()
        return
    fence = fences[which]
    found = await pool.log.worker(POOL, fence.worker_id)
    held = await pool.log.held(POOL, fence.worker_id)
    if found is None or found.worker.ended:
        return
    if what == "claim":
        await pool.claim(fence, 2, starts="developer")
    elif what == "end" and held:
        await pool.log.act(POOL, held[0], Terminate(graceful=False), ORIGIN)
    elif what == "move" and held:
        await pool.log.act(POOL, held[0], Release(reason="moved"), ORIGIN, fence=fence)
    elif what == "stop" and found.worker.draining and not held:
        stop = StopWorker(reason="drain")
        await pool.log.act_on_worker(POOL, fence.worker_id, stop, ORIGIN, epoch=fence.epoch)


def check_ends(url: str) -> None:
    """No worker held an agent as it was to drain, by the log itself."""
    holder: dict[str, str] = {}
    for event in raw_events(url):
        if event["type"] == "agent.claimed":
            holder[event["subject"]] = event["worker_id"]
        elif event["type"] in {"agent.released", "agent.terminated", "agent.lost"}:
            holder.pop(event["subject"], None)
        elif event["type"] in {"worker.draining", "worker.stopped", "worker.lost"}:
            assert event["subject"] not in holder.values(), event
