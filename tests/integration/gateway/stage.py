"""A gateway on a stage: real log, views and projector, and a worker that the test itself plays."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import structlog
from structlog.typing import EventDict

from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import End, Fail, Started
from eventstore.language.events import Error
from eventstore.language.restart_policy import RestartPolicy
from eventstore.log.replies import ClaimedAgent
from eventstore.steps.step import Fence
from gateway.backend.backend import Backend
from gateway.options import GatewayOptions, Limits
from gateway.server.listener import Gateway
from projector.service.projector import Phase, Projector
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.pools import ORIGIN, TestPool, raw_events
from tests.waiting import until

QUICK = Limits(
    catch_up_seconds=10.0,
    wait_default=10.0,
    durability_seconds=10.0,
    query_seconds=30.0,
    probe_seconds=10.0,
    stream_heartbeat_seconds=0.2,
)
"""Waits are long, since what tests wait for happens; a test that waits in vain has shorter ones."""
TOKEN = "a-token-that-must-stay-secret"
AGENTS = "/api/v1/agents"


class Answer:
    """The gateway's answer, read completely."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """The type of a problem."""
        assert self.headers["Content-Type"].startswith("application/problem+json"), self.body
        assert self.json["status"] == self.status
        return str(self.json["type"])

    @property
    def fields(self) -> list[str]:
        """The fields that a problem names."""
        return [error["field"] for error in self.json.get("errors", [])]


class GatewayStage:
    """A gateway with pool `developer_pool`, with a projector at work unless stopped."""

    def __init__(self, stage: Stage, gateway: Gateway, pool: TestPool, projector: Projector):
        self.stage, self.gateway, self.pool, self.projector = stage, gateway, pool, projector
        self.log = stage.log
        self.session = aiohttp.ClientSession(gateway.url)

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, path, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    @property
    def backend(self) -> Backend:
        """What the gateway works with, for the test to disturb."""
        assert self.gateway._backend is not None
        return self.gateway._backend

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)

    async def spawn(self, *, prefer: str = "", key: str = "", **body: Any) -> Answer:
        headers = {"Prefer": prefer} if prefer else {}
        if key:
            headers["Idempotency-Key"] = key
        return await self.ask("POST", f"{AGENTS}/spawn", json={**asked(), **body}, headers=headers)

    async def pending(self, **body: Any) -> str:
        """Spawn without waiting; the agent's id."""
        answer = await self.spawn(prefer="respond-async", **body)
        assert answer.status == 202, answer.body
        return str(answer.json["agent_id"])

    async def terminate(
        self, agent_id: str, *, pool: str = POOL, prefer: str = "", **body: Any
    ) -> Answer:
        body = {"pool_name": pool, "agent_id": agent_id, **body}
        headers = {"Prefer": prefer} if prefer else {}
        return await self.ask("POST", f"{AGENTS}/terminate", json=body, headers=headers)

    async def alerts(self, name: str = "") -> list[dict[str, Any]]:
        """The alerts of the monitor: all, or those of one name."""
        alerts = (await self.get(f"{AGENTS}/monitor/alerts")).json["alerts"]
        return [alert for alert in alerts if name in ("", alert["name"])]

    async def events(self, pool: str = POOL) -> list[str]:
        """The types of the events in the pool's stream, read with a plain client."""
        return [event["type"] for event in raw_events(self.stage.redis_url, pool)]

    async def heads(self) -> tuple[int, ...]:
        """How far every log is: grows with any event."""
        return (
            await self.stage.head(CATALOGUE),
            *[await self.stage.head(name) for name in sorted(self.stage.catalogue.state.pools)],
        )

    # ---- playing the worker --------------------------------------------------------------------

    async def worker(self, worker_id: str = "w1", *, slots: int = 10) -> Fence:
        return await self.pool.worker(worker_id, slots=slots)

    async def claim(self, fence: Fence, count: int = 1) -> list[ClaimedAgent]:
        """Claim as soon as there is something to claim."""
        claimed: list[ClaimedAgent] = await until(
            lambda: self.pool.claim(fence, count), interval=0.01
        )
        return claimed

    async def run(self, fence: Fence, count: int = 1) -> list[str]:
        """Claim and start agents; their ids."""
        ids = [claimed.agent.agent_id for claimed in await self.claim(fence, count)]
        for agent_id in ids:
            await self.act(agent_id, Started(now_ms=self.log.now_ms(POOL)), fence)
        if self.projector.phase is Phase.ACTIVE:  # the gateway does not know of what we wrote
            await self.stage.settle(POOL)
        return ids

    async def fail(self, fence: Fence, *, limit: int = 0) -> str:
        """Claim an agent and let its start fail; with a `limit` it will be tried again."""
        [claimed] = await self.claim(fence)
        error = Error(type="ValueError", message="no model", traceback="line 1")
        policy = RestartPolicy(limit=limit)
        failed = Fail(during="start", error=error, now_ms=self.log.now_ms(POOL), policy=policy)
        await self.act(claimed.agent.agent_id, failed, fence)
        return claimed.agent.agent_id

    async def crash(self, agent_id: str, fence: Fence) -> None:
        """Let an agent that runs fail; it will be tried again."""
        error, policy = Error(type="ValueError", message="as asked"), RestartPolicy(limit=5)
        now_ms = self.log.now_ms(POOL)
        await self.act(
            agent_id, Fail(during="run", error=error, now_ms=now_ms, policy=policy), fence
        )

    async def end(self, agent_id: str, fence: Fence, reason: str = "requested") -> None:
        await self.act(agent_id, End(reason=reason), fence)

    async def act(self, agent_id: str, command: Any, fence: Fence) -> None:
        await self.log.act(POOL, agent_id, command, ORIGIN, fence=fence)


def asked(**changes: Any) -> dict[str, Any]:
    """A spawn's body."""
    return {
        "project_id": "apollo",
        "role_type": "developer",
        "pool_name": POOL,
        **changes,
    }


def options(redis_url: str, database_url: str, **changes: Any) -> GatewayOptions:
    settings: dict[str, Any] = {
        "redis_url": redis_url,
        "database_url": database_url,
        "roles": ("developer", "tester"),
        "port": 0,
        "limits": QUICK,
    }
    return GatewayOptions(**{**settings, **changes})


@asynccontextmanager
async def gateway_stage(
    redis_url: str,
    database_url: str,
    *,
    projecting: bool = True,
    lease_seconds: float = 4.0,
    **changes: Any,
) -> AsyncIterator[GatewayStage]:
    """`lease_seconds`: of the projector, which waits for it after an outage of its database."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        gateway = Gateway(options(redis_url, database_url, **changes))
        projector = stage.projector(
            lease_seconds=lease_seconds, backoff_max_seconds=0.5, metrics=True
        )
        await gateway.start()
        if projecting:
            await projector.start()
        opened = GatewayStage(stage, gateway, pool, projector)
        try:
            if projecting:
                await stage.settle(POOL)
            yield opened
        finally:
            await opened.session.close()
            await gateway.stop()
            await projector.stop()


@asynccontextmanager
async def another_gateway(stage: GatewayStage) -> AsyncIterator[GatewayStage]:
    """A second gateway of the same log and views."""
    gateway = Gateway(options(stage.stage.redis_url, stage.stage.database_url))
    await gateway.start()
    other = GatewayStage(stage.stage, gateway, stage.pool, stage.projector)
    try:
        yield other
    finally:
        await other.session.close()
        await gateway.stop()


@asynccontextmanager
async def playing(part: Callable[[], Any]) -> AsyncIterator["asyncio.Task[Any]"]:
    """Run a coroutine next to the test; what it raises, the test raises."""
    task = asyncio.ensure_future(part())
    try:
        yield task
        await asyncio.wait_for(task, 20)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def logged() -> AsyncIterator[list[EventDict]]:
    """Every line that is logged meanwhile."""
    with structlog.testing.capture_logs() as lines:
        yield lines
