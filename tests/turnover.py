"""Agents that come and go by the thousand: through the real scripts, without processes of theirs.

Each agent has ten events: requested, claimed, started, released, claimed, started, crashed,
restarting, claimed, terminated. A hundred agents share a worker, which is ordered, starts, renews
its lease with all of them, is emptied and stops.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from eventstore.ids import new_id
from eventstore.language import workers
from eventstore.language.agent_commands import Command, End, Fail, Release, Restart, Started
from eventstore.language.agents import Agent
from eventstore.language.catalogue import Pool
from eventstore.language.events import AgentRequested, Error
from eventstore.language.restart_policy import RestartPolicy
from eventstore.log.log import Log
from eventstore.log.replies import AgentResult, Outcome
from eventstore.log.submission import submit
from eventstore.steps.step import Fence
from tests.pools import ORIGIN, TestPool

WORKER_LOAD = 100
EVENTS_OF_A_LIFE = 10
EVENTS_OF_A_WORKER = 4
"""Requested, started, draining, stopped."""

T = TypeVar("T")
R = TypeVar("R")


async def turn_over(log: Log, pool: Pool, agents: int, *, at_once: int = 4) -> None:
    """Run so many agents from start to end, a few workers at a time."""
    crews = iter([min(WORKER_LOAD, agents - start) for start in range(0, agents, WORKER_LOAD)])

    async def work() -> None:
        for size in crews:
            await WorkerLoad(log, pool).live(size)

    await asyncio.gather(*(work() for _ in range(at_once)))


class WorkerLoad:
    """One worker and its agents, from its order to its end."""

    def __init__(self, log: Log, pool: Pool) -> None:
        self._log = log
        self._pool = pool
        self._name = pool.pool_name
        self._test = TestPool(log, pool.pool_name)
        self._worker = new_id()
        self._fence = Fence("", 0)

    async def live(self, size: int) -> None:
        self._fence = await self._test.worker(self._worker, slots=WORKER_LOAD)
        await all_of(self._spawn, range(size))
        await self._each(await self._claimed(size), Started(now_ms=self._log.now_ms(self._name)))
        released = await self._each(await self._held(), Release(reason="drain"))
        await self._renew()
        assert len(released) == size
        await self._each(await self._claimed(size), Started(now_ms=self._log.now_ms(self._name)))
        await self._renew()
        failed = await self._each(await self._held(), self._failure())
        await self._each(failed, Restart(), fenced=False)
        await self._each(await self._claimed(size), End(reason="completed"))
        await self._leave()

    async def _spawn(self, _: int) -> None:
        request = AgentRequested(
            role_type="developer", project_id="turnover", labels={"team": "core"}
        )
        done = await submit(
            self._log, self._pool, request, ORIGIN,
            agent_id=new_id(), operation_id=new_id(), digest="0" * 40,
        )  # fmt: skip
        assert done.outcome is Outcome.DONE

    async def _claimed(self, size: int) -> list[Agent]:
        """So many agents in our slots: perhaps those of another crew, as it is in life."""
        agents: list[Agent] = []
        while len(agents) < size:
            claims = await self._test.claim(self._fence, size - len(agents))
            agents += [claimed.agent for claimed in claims]
            if not claims:
                await asyncio.sleep(0.001)
        return agents

    async def _held(self) -> list[Agent]:
        held = await self._log.held(self._name, self._worker)
        found = await all_of(lambda agent_id: self._log.agent(self._name, agent_id), held)
        return [agent for agent in found if agent is not None]

    async def _each(
        self, agents: Sequence[Agent], command: Command, *, fenced: bool = True
    ) -> list[Agent]:
        fence = self._fence if fenced else None

        async def act(agent: Agent) -> AgentResult:
            return await self._log.act(
                self._name, agent.agent_id, command, ORIGIN, fence=fence, agent=agent
            )

        acted = await all_of(act, agents)
        assert {one.outcome for one in acted} <= {Outcome.DONE}
        return [one.agent for one in acted if one.agent is not None]

    def _failure(self) -> Fail:
        """One that no budget is spent by: crews take over each other's, some of them many times."""
        policy = RestartPolicy(window_ms=1, backoff_min_ms=1, backoff_max_ms=1)
        error = Error(type="ValueError", message="turned over")
        return Fail(during="run", error=error, now_ms=self._log.now_ms(self._name), policy=policy)

    async def _renew(self) -> None:
        held = await self._log.held(self._name, self._worker)
        beat = {"agents": dict.fromkeys(held, "idle"), "loop_lag_ms": 0.1, "agent_count": len(held)}
        retained_ms = self._log.retention.heartbeats_ms
        data = msgspec.json.encode(beat).decode()
        arguments = (self._worker, self._fence.epoch, new_id(), data, retained_ms, "", 10, 0)
        await self._log._run_guarded("renew", self._name, *arguments)

    async def _leave(self) -> None:
        for command in (workers.Drain(reason="empty"), workers.StopWorker(reason="quit")):
            acted = await self._log.act_on_worker(self._name, self._worker, command, ORIGIN)
            assert acted.outcome is Outcome.DONE


async def all_of(work: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """Do a thing with each item, all at once: what is sent together goes in one write."""
    return list(await asyncio.gather(*(work(item) for item in items)))
