"""A pool for tests of workers: its log, orders for workers, spawns, and what became of them.

What happened is read from the raw stream, not through our own readers.
"""

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from eventstore.connection.clients import Client
from eventstore.ids import new_id
from eventstore.keys import Keys
from eventstore.language.agent_commands import Terminate
from eventstore.language.agents import Agent as State
from eventstore.language.catalogue import Pool
from eventstore.language.events import AgentRequested, WorkerRequested
from eventstore.language.pool_config import PoolConfig
from eventstore.language.workers import DeclareLost
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.log.submission import submit
from eventstore.steps.step import Origin
from tests.waiting import until
from workers.api.agent import Agent
from workers.host.processes import start_time
from workers.process.options import WorkerOptions
from workers.process.worker import Worker

POOL = "tests"
ORIGIN = Origin(actor="test")

QUICK = PoolConfig(
    restart_limit=5,
    backoff_min_seconds=0.05,
    backoff_max_seconds=0.05,
    start_timeout_seconds=10.0,
    stop_grace_seconds=0.5,
    drain_seconds=8.0,
    lease_seconds=20.0,
    renew_seconds=0.2,
    loop_stall_seconds=1.0,
)
"""Intervals that a test can wait for. Lease and start are as long as held-up machines need."""


class WorkerPool:
    """One pool on a real server."""

    def __init__(self, url: str, log_dir: Path, config: PoolConfig = QUICK) -> None:
        self.url, self.log_dir, self.config = url, log_dir, config
        self.log = Log(Client(url), Keys())
        self._numbers = itertools.count(1)
        self._workers: list[Worker] = []

    async def order(self, *, max_agents: int = 10, worker_id: str = "") -> str:
        """Order a worker, as a supervisor does."""
        worker_id = worker_id or f"w{next(self._numbers)}"
        step = self.log.step(POOL, ORIGIN)
        deadline = self.log.now_ms(POOL) + 30_000
        body = WorkerRequested(host="here", max_agents=max_agents, deadline_ms=deadline)
        step.worker(worker_id, None, (body,))
        assert (await self.log.commit(step)).outcome is Outcome.DONE
        return worker_id

    def options(self, worker_id: str, **changes: Any) -> WorkerOptions:
        settings: dict[str, Any] = {
            "redis_url": self.url,
            "pool_name": POOL,
            "worker_id": worker_id,
            "host": "here",
            "config": self.config,
            "log_dir": str(self.log_dir),
            "exits": False,
            "capture": False,
        }
        return WorkerOptions(**{**settings, **changes})

    async def worker(
        self,
        roles: Mapping[str, type[Agent]] | type[Agent],
        *,
        max_agents: int = 10,
        **changes: Any,
    ) -> Worker:
        """Order and start a worker within this process."""
        roles = roles if isinstance(roles, Mapping) else {"role": roles}
        worker_id = await self.order(max_agents=max_agents)
        role = "role" if "role" in roles else ""
        options = self.options(worker_id, **{"role": role, **changes})
        worker = Worker(options, roles, start_time=start_time(os.getpid()))
        self._workers.append(worker)
        await worker.start()
        return worker

    async def spawn(self, **request: Any) -> str:
        """Ask for an agent; returns its id."""
        asked = AgentRequested(**{"role_type": "role", "project_id": "p", **request})
        agent_id = new_id()
        submitted = await submit(
            self.log,
            Pool(pool_name=POOL, role_type="role", config=self.config, created_seq=1),
            asked,
            ORIGIN,
            agent_id=agent_id,
            operation_id=new_id(),
            digest="",
        )
        assert submitted.outcome is Outcome.DONE
        return agent_id

    async def running(self, count: int = 1, **request: Any) -> list[str]:
        """Ask for agents and wait until they run; returns their ids."""
        ids = [await self.spawn(**request) for _ in range(count)]
        for agent_id in ids:
            await self.reached(agent_id, "running")
        return ids

    async def terminate(self, agent_id: str, *, graceful: bool = True) -> None:
        command = Terminate(reason="requested", graceful=graceful)
        acted = await self.log.act(POOL, agent_id, command, ORIGIN)
        assert acted.outcome is Outcome.DONE

    async def fence(self, worker_id: str) -> None:
        """Declare a worker lost."""
        epoch = await self.log.allocate_epoch(POOL)
        acted = await self.log.act_on_worker(
            POOL, worker_id, DeclareLost(reason="test"), ORIGIN, epoch=epoch
        )
        assert acted.outcome is Outcome.DONE

    async def state(self, agent_id: str) -> State:
        state = await self.log.agent(POOL, agent_id)
        assert state is not None
        return state

    async def reached(self, agent_id: str, status: str, *, incarnation: int = 0) -> State:
        """Wait until an agent has a status (and, unless 0, is at that incarnation)."""

        async def there() -> State | None:
            state = await self.state(agent_id)
            right = incarnation in {0, state.incarnation}
            return state if state.status == status and right else None

        found: State | None = await until(there, what=f"agent {agent_id} {status}")
        assert found is not None
        return found

    async def restart_due(self) -> None:
        """Put every agent that waits for its restart back into the queue, as a supervisor does."""
        from eventstore.language.agent_commands import Restart

        for agent_id, _ in (await self.log.survey(POOL)).due:
            await self.log.act(POOL, agent_id, Restart(), ORIGIN)

    async def entries(self, part: str) -> list[dict[str, str]]:
        """The raw entries of one of the pool's streams."""
        raw = await self.log.client.execute_command("XRANGE", f"pool:{{{POOL}}}:{part}", "-", "+")
        return [_named(fields) for _, fields in raw]

    async def events(self, subject: str = "") -> list[dict[str, str]]:
        """The raw entries of the log, of one subject if given."""
        return [e for e in await self.entries("events") if subject in {"", e["subject"]}]

    async def types(self, subject: str = "") -> list[str]:
        return [entry["type"] for entry in await self.events(subject)]

    async def data(self, subject: str, kind: str) -> dict[str, Any]:
        """The body of the last event of a type."""
        found = [e["data"] for e in await self.events(subject) if e["type"] == kind]
        assert found, f"no {kind} of {subject}"
        return msgspec.json.decode(found[-1], type=dict[str, Any])

    async def close(self) -> None:
        for worker in self._workers:
            await worker.stop()
        await self.log.client.aclose()


async def eventually(condition: Callable[[], Awaitable[bool]], *, timeout: float = 10.0) -> None:
    """Wait until an asynchronous condition is true."""
    done: bool = await until(condition, timeout=timeout)
    assert done


@asynccontextmanager
async def worker_pool(
    url: str, log_dir: Path, config: PoolConfig = QUICK
) -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(url, log_dir, config)
    await pool.log.create_catalogue()
    await pool.log.initialise(POOL)
    try:
        yield pool
    finally:
        await pool.close()


def _named(fields: Mapping[bytes, bytes] | Sequence[bytes]) -> dict[str, str]:
    """An entry's fields: redis-py parses them, unless a reader of the same run asked it not to."""
    if isinstance(fields, Mapping):
        return {name.decode(): value.decode() for name, value in fields.items()}
    text = [item.decode() for item in fields]
    return dict(zip(text[::2], text[1::2], strict=True))
