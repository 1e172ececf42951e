"""An isolated agent: which worker it gets, and that counters, views and verify agree."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from eventstore.language.agent_commands import Clear, MarkLost, Release, Restart, Started
from eventstore.language.agents import Status
from eventstore.language.restart_policy import RestartPolicy
from eventstore.log.replies import ClaimedAgent
from eventstore.steps.step import Fence
from projector.verify.verification import verify
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.pools import ORIGIN, TestPool, raw_events

WINDOW_MS = 600_000


class Scene:
    """A pool with views, and agents that were lost."""

    def __init__(self, stage: Stage, pool: TestPool) -> None:
        self.stage, self.pool, self.log = stage, pool, stage.log

    async def suspect(self, *, names: str = "xy", slots: int = 4) -> str:
        """An agent that was lost twice, and waits."""
        spawned = await self.pool.spawn()
        for name in names:
            fence = await self.pool.worker(name, slots=slots)
            await self.pool.claim(fence, slots - 1)  # not all slots: it gets no isolated agent
            await self.pool.lose([spawned.agent_id], name)
        return spawned.agent_id

    async def lose(self, agent_id: str, worker_id: str, **policy: Any) -> None:
        """The worker that runs it dies."""
        fence = await self.pool.fence(worker_id)
        lose = MarkLost(
            worker_id=worker_id,
            reason="killed by signal 9",
            now_ms=self.log.now_ms(POOL),
            suspicion_ms=WINDOW_MS,
            policy=RestartPolicy(**policy),
        )
        await self.log.act(POOL, agent_id, lose, ORIGIN, fence=fence)

    async def claim(self, fence: Fence, slots: int = 4) -> list[str]:
        return [claimed.agent.agent_id for claimed in await self.claimed(fence, slots)]

    async def claimed(self, fence: Fence, slots: int = 4) -> list[ClaimedAgent]:
        _, claimed = await self.log.claim(POOL, fence, slots, isolation_limit=1)
        return claimed

    async def meta(self, *fields: str) -> list[int]:
        key = self.log.keys.pool(POOL, "meta")
        found = await self.log.client.execute_command("HMGET", key, *fields)
        return [int(value or 0) for value in found]

    async def check(self) -> None:
        """The views catch up, and everything agrees."""
        await self.stage.settle(POOL)
        report = await verify(self.stage.redis_url, "", self.stage.database_url)
        assert report.differences == []


@pytest.fixture
async def scene(redis_url: str, tmp_path: Any) -> AsyncIterator[Scene]:
    async with open_stage(redis_url, f"sqlite+aiosqlite:///{tmp_path / 'views.db'}") as stage:
        pool = await stage.pool(agents_per_worker=4, max_workers=4)
        async with stage.projecting():
            yield Scene(stage, pool)


async def test_it_gets_an_empty_worker_with_all_slots(scene: Scene) -> None:
    agent_id = await scene.suspect()
    assert (await scene.log.survey(POOL)).waiting_isolated == 1
    await scene.check()
    worker = await scene.pool.worker("w", slots=4)
    assert await scene.claim(worker) == [agent_id]
    await scene.pool.spawn()
    assert await scene.claim(worker) == [], "no other agent gets a slot there"
    assert await scene.meta("free", "waiting", "alone") == [0, 1, 1]
    await scene.check()
    row = await scene.stage.views.pool(POOL)
    assert row is not None
    assert (row.used_capacity, row.available_capacity, row.utilization) == (4, 0, 1.0)
    [shown] = await scene.stage.views.workers(POOL)
    assert (shown.alone, shown.agent_count, shown.max_agents) == (agent_id, 1, 4)


async def test_it_waits_while_workers_run_others_and_blocks_none_of_them(scene: Scene) -> None:
    worker = await scene.pool.worker("w", slots=4)
    await scene.pool.spawn()
    await scene.claim(worker)
    agent_id = await scene.suspect()
    others = [(await scene.pool.spawn()).agent_id for _ in range(2)]
    assert await scene.claim(worker, 3) == others
    await scene.check()
    found = await scene.stage.views.agent(agent_id)
    assert found is not None
    assert (found.status, found.alone, found.losses) == ("pending", True, 2)
    assert found.reason == "needs a worker of its own (lost)"


async def test_it_does_not_get_a_worker_that_still_runs_something(scene: Scene) -> None:
    """An agent's end may be in the log before its code has ended: the worker claims fewer slots."""
    await scene.suspect()
    worker = await scene.pool.worker("w", slots=4)
    assert await scene.claim(worker, 3) == []


async def test_the_number_of_isolated_agents_is_limited(scene: Scene) -> None:
    suspects = {await scene.suspect(names="ab"), await scene.suspect(names="cd")}
    one, two = await scene.pool.worker("w1", slots=4), await scene.pool.worker("w2", slots=4)
    [first] = await scene.claim(one)
    other = await scene.pool.spawn()
    assert await scene.claim(two) == [other.agent_id], "the other workers are for the others"
    await scene.log.act(POOL, first, Clear(reason="behaved"), ORIGIN, fence=one)
    three = await scene.pool.worker("w3", slots=4)
    assert {first, *await scene.claim(three)} == suspects
    await scene.check()


async def test_which_of_them_is_isolated_first_is_random(scene: Scene) -> None:
    """Else the last of those that were lost together, perhaps the cause, would never be."""
    ids = [(await scene.pool.spawn()).agent_id for _ in range(4)]
    for name in "xy":
        await scene.pool.claim(await scene.pool.worker(name, slots=5), 4)
        await scene.pool.lose(ids, name)
    worker = await scene.pool.worker("w", slots=4)
    chosen = set()
    for _ in range(30):
        [agent_id] = await scene.claim(worker)
        chosen.add(agent_id)
        await scene.log.act(POOL, agent_id, Release(reason="move"), ORIGIN, fence=worker)
        for waiting in ids:  # as if all were lost in the same millisecond
            await scene.log.client.execute_command(
                "ZADD", scene.log.keys.pool(POOL, "alone"), 1, waiting
            )
    assert len(chosen) > 1
    assert chosen <= set(ids)


async def test_the_other_slots_are_free_when_it_is_cleared(scene: Scene) -> None:
    agent_id = await scene.suspect()
    worker = await scene.pool.worker("w", slots=4)
    await scene.claim(worker)
    await scene.log.act(
        POOL, agent_id, Started(now_ms=scene.log.now_ms(POOL)), ORIGIN, fence=worker
    )
    await scene.log.act(POOL, agent_id, Clear(reason="behaved"), ORIGIN, fence=worker)
    assert await scene.meta("free", "alone") == [3, 0]
    await scene.pool.spawn()
    assert len(await scene.claim(worker, 3)) == 1
    state = await scene.log.agent(POOL, agent_id)
    assert state is not None
    assert (state.alone, state.losses) == (False, ())
    await scene.check()


async def test_cleared_while_it_waits_it_queues_with_the_others(scene: Scene) -> None:
    agent_id = await scene.suspect()
    await scene.log.act(POOL, agent_id, Clear(reason="suspicion-off"), ORIGIN)
    worker = await scene.pool.worker("w", slots=4)
    other = await scene.pool.spawn()
    assert await scene.claim(worker) == [agent_id, other.agent_id]
    await scene.check()


async def test_it_stays_isolated_after_a_release(scene: Scene) -> None:
    agent_id = await scene.suspect()
    worker = await scene.pool.worker("w", slots=4)
    await scene.claim(worker)
    await scene.log.act(POOL, agent_id, Release(reason="drain"), ORIGIN, fence=worker)
    [(waiting, _)] = await scene.log.waiting_isolated(POOL, 10)
    assert waiting == agent_id
    assert await scene.meta("free", "alone") == [4, 0]
    await scene.check()


async def test_if_its_own_worker_dies_it_is_a_failure_of_the_agent(scene: Scene) -> None:
    """It spends the restart budget, waits for the back-off, and fails in the end."""
    agent_id = await scene.suspect()
    for name in "uv":
        fence = await scene.pool.worker(name, slots=4)
        assert await scene.claim(fence) == [agent_id]
        await scene.lose(agent_id, name, limit=1, backoff_min_ms=60_000, backoff_max_ms=60_000)
        state = await scene.log.agent(POOL, agent_id)
        assert state is not None
        if name == "u":
            assert (state.status, state.due_ms > scene.log.now_ms(POOL) + 20_000) == (
                Status.RESTARTING,
                True,
            )
            await scene.log.act(POOL, agent_id, Restart(), ORIGIN)
    assert state is not None
    assert (state.status, state.reason) == (Status.FAILED, "restart-budget-spent")
    await scene.check()
    row = await scene.stage.views.agent(agent_id)
    assert row is not None
    assert row.last_error is not None
    assert row.last_error.message == "killed by signal 9"
    assert await scene.meta("alone", "waiting") == [0, 0]


async def test_losses_are_recorded_in_version_three(scene: Scene) -> None:
    await scene.suspect()
    versions = {
        e["version"] for e in raw_events(scene.stage.redis_url) if e["type"] == "agent.lost"
    }
    assert versions == {"3"}
