"""A pool as tests drive it: spawns, workers and claims through the log, without processes."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import redis

from eventstore.connection.clients import Client
from eventstore.ids import new_id
from eventstore.keys import Keys
from eventstore.language import workers
from eventstore.language.agent_commands import MarkLost, Restart
from eventstore.language.catalogue import Pool
from eventstore.language.events import AgentRequested, WorkerRequested
from eventstore.language.pool_config import PoolConfig
from eventstore.language.restart_policy import RestartPolicy
from eventstore.log.log import Log
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import ClaimedAgent, Outcome
from eventstore.log.submission import SubmitResult, submit
from eventstore.steps.step import Fence, Origin

ORIGIN = Origin(actor="test")


class TestPool:
    """One pool of one log."""

    __test__ = False

    def __init__(self, log: Log, name: str = "developer_pool", **config: Any) -> None:
        self.log = log
        self.name = name
        self.pool = Pool(
            pool_name=name, role_type="developer", config=PoolConfig(**config), created_seq=1
        )
        self.pool_log = PoolLog(log, name, ORIGIN)

    async def spawn(
        self,
        *,
        key: str = "",
        digest: str = "",
        project: str = "p",
        role_type: str = "developer",
        **request: Any,
    ) -> SubmitResult:
        return await submit(
            self.log,
            self.pool,
            AgentRequested(role_type=role_type, project_id=project, **request),
            ORIGIN,
            agent_id=new_id(),
            operation_id=key or new_id(),
            digest=digest,
            from_client=bool(key),
        )

    async def order(
        self, worker_id: str, *, slots: int = 10, host: str = "h", deadline_ms: int = 2**52
    ) -> None:
        step = self.log.step(self.name, ORIGIN)
        order = WorkerRequested(host=host, max_agents=slots, deadline_ms=deadline_ms)
        step.worker(worker_id, None, (order,))
        assert (await self.log.commit(step)).outcome is Outcome.DONE

    async def worker(self, worker_id: str, *, slots: int = 10) -> Fence:
        """A worker that was ordered and has started."""
        await self.order(worker_id, slots=slots)
        return await self.start(worker_id)

    async def start(self, worker_id: str, *, pid: int = 1, start_time: int = 1) -> Fence:
        """What the process of an order does first."""
        epoch = await self.log.allocate_epoch(self.name)
        start = workers.Start(host="h", pid=pid, start_time=start_time)
        acted = await self.log.act_on_worker(self.name, worker_id, start, ORIGIN, epoch=epoch)
        assert acted.outcome is Outcome.DONE
        return Fence(worker_id, epoch)

    async def claim(
        self, fence: Fence, slots: int = 10, *, again: bool = False, starts: str = ""
    ) -> list[ClaimedAgent]:
        outcome, claimed = await self.log.claim(
            self.name, fence, slots, include_held=again, starts=starts
        )
        assert outcome is Outcome.DONE
        return claimed

    async def fence(self, worker_id: str) -> Fence:
        """Declare a worker lost; returns what its reaper acts under."""
        epoch = await self.log.allocate_epoch(self.name)
        acted = await self.log.act_on_worker(
            self.name, worker_id, workers.DeclareLost(reason="test"), ORIGIN, epoch=epoch
        )
        assert acted.outcome is Outcome.DONE
        return Fence(worker_id, epoch, lost=True)

    async def lose(
        self, agent_ids: Iterable[str], worker_id: str, *, suspicion_ms: int = 600_000
    ) -> None:
        """The worker that runs these agents dies; after a short back-off they wait again."""
        fence, log, pool = await self.fence(worker_id), self.log, self.name
        policy = RestartPolicy(backoff_min_ms=1, backoff_max_ms=1)
        for agent_id in agent_ids:
            lose = MarkLost(
                worker_id=worker_id,
                reason="killed by signal 9",
                now_ms=log.now_ms(pool),
                suspicion_ms=suspicion_ms,
                policy=policy,
            )
            acted = await log.act(pool, agent_id, lose, ORIGIN, fence=fence)
            assert acted.agent is not None
            if acted.agent.due_ms:
                await asyncio.sleep(0.01)
                await log.act(pool, agent_id, Restart(), ORIGIN)


@asynccontextmanager
async def open_pool(
    url: str, name: str = "developer_pool", **config: Any
) -> AsyncIterator[TestPool]:
    """A new pool on a server; its connections are closed at the end."""
    client = Client(url)
    try:
        log = Log(client, Keys())
        await log.create_catalogue()
        await log.initialise(name)
        yield TestPool(log, name, **config)
    finally:
        await client.aclose()


def raw_events(url: str, pool: str = "developer_pool") -> list[dict[str, str]]:
    """The pool's events in the stream, read with a plain client."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return [fields for _, fields in client.xrange(f"pool:{{{pool}}}:events")]


def types(url: str, pool: str = "developer_pool") -> list[str]:
    return [event["type"] for event in raw_events(url, pool)]


def data(event: dict[str, str]) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(event["data"])
    return decoded
