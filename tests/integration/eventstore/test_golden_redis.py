"""What a life leaves in Redis, key by key and field by field, as it was when it was recorded.

Half of it is written by Lua, so no test without a server can hold it. Times and what depends on
them are masked; the ids are the test's own.

    python -m tests.integration.eventstore.test_golden_redis URL     records it, on an empty server

That is for a field or key that was added; what else `git diff` then shows is a broken contract.
"""

import asyncio
import itertools
import json
import re
import sys
from typing import Any

import msgspec
import redis

from eventstore.connection.clients import Client
from eventstore.errors import Unreadable
from eventstore.keys import Keys
from eventstore.language import workers
from eventstore.language.agent_commands import Fail, Started, Terminate
from eventstore.language.events import (
    AgentLost,
    AgentRequested,
    AgentRestarting,
    Error,
    PoolScalingDecided,
    WorkerRequested,
)
from eventstore.language.pool_config import PoolConfig
from eventstore.language.restart_policy import RestartPolicy
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.log.submission import submit
from eventstore.steps.clauses import WorkerActs
from eventstore.steps.step import Fence, Origin
from tests import golden, recorded

POOL = "golden_pool"
ORIGIN = Origin(actor="test", correlation_id="c", causation_id="d", traceparent="t")
FAR_MS = 2**52
SAMPLE = golden.FOLDER / "redis.json"


class Life:
    """Writes every kind of key that one pool can have in Redis, without processes."""

    def __init__(self, log: Log, catalogue: CatalogueLog) -> None:
        self.log, self.catalogue = log, catalogue

    async def live(self, server: "redis.Redis") -> None:
        await self.log.create_catalogue()
        await self.catalogue.join_host("host-1", "host-1.example.org", 17, ORIGIN)
        await self.catalogue.create_pool(POOL, "developer", PoolConfig(max_workers=3), ORIGIN)
        await self.catalogue.change_pool(POOL, lambda _: PoolConfig(max_workers=4), ORIGIN)
        await self.catalogue.cordon_host("host-1", "shutdown", ORIGIN)
        one, two = await self.worker("w1"), await self.worker("w2")
        await self.order("w3")
        await self.lose("w3")
        for name in ("labelled", "restarting", "alone", "stopping"):
            await self.spawn(name)
        await self.log.claim(POOL, one, 2)
        await self.log.claim(POOL, two, 2)
        await self.log.act(POOL, "labelled", Started(now_ms=900), ORIGIN, fence=one)
        failed = Fail(
            during="start",
            error=Error(type="E", message="m", traceback="t"),
            now_ms=1_000,
            policy=RestartPolicy(),
        )
        await self.log.act(POOL, "restarting", failed, ORIGIN, fence=one)
        await self.log.act(POOL, "stopping", Started(now_ms=900), ORIGIN, fence=two)
        await self.isolate("alone", two)
        await self.log.act(POOL, "stopping", Terminate(reason="enough"), ORIGIN)
        for name in ("ended", "waiting"):
            await self.spawn(name, expires_ms=FAR_MS, pending_timeout=9.5)
        await self.log.act(POOL, "ended", Terminate(), ORIGIN)
        server.xadd(f"pool:{{{POOL}}}:commands", {"nonsense": "x"})
        await self.log.claim(POOL, one, 1)
        await self.log.park(POOL, Unreadable("agent", "odd", "it is damaged"))
        beat = b'{"agents":{"labelled":"busy"},"loop_lag_ms":0.5,"agent_count":1}'
        await self.log._run_guarded(
            "renew", POOL, "w1", one.epoch, self.log.new_id(), beat, 60_000, "", 10, 0, 1
        )
        await self.log.lead(POOL, "host-1", 0)
        await self.decide()
        await self.log.act_on_worker(POOL, "w2", workers.Drain(reason="empty"), ORIGIN)
        await self.spawn("queued", expires_ms=FAR_MS, pending_timeout=9.5)
        await self.order("w4")

    async def isolate(self, agent_id: str, fence: Fence) -> None:
        """As after a second loss, of which the first is not remembered."""
        agent = await self.log.agent(POOL, agent_id)
        assert agent is not None
        lost = AgentLost(reason="r", at_ms=2_000, alone=True)
        step = self.log.step(POOL, ORIGIN)
        step.check(WorkerActs(fence.worker_id, fence.epoch))
        restarting = AgentRestarting(reason="lost", next_incarnation=2)
        step.agent(agent_id, agent, (lost, restarting), fence=fence)
        await self.log.commit(step)

    async def spawn(self, name: str, **more: Any) -> None:
        labelled = {"input": msgspec.Raw(b'{"task":1}'), "labels": {"a": "b"}}
        asked = labelled if name == "labelled" else more
        request = AgentRequested(role_type="developer", project_id="demo", **asked)
        pool = self.catalogue.state.pools[POOL]
        await submit(
            self.log,
            pool,
            request,
            ORIGIN,
            agent_id=name,
            operation_id=f"key:{name}",
            digest="digest",
            from_client=name == "labelled",
        )

    async def order(self, worker_id: str) -> None:
        order = WorkerRequested(host="host-1", max_agents=2, deadline_ms=FAR_MS, reason="need")
        step = self.log.step(POOL, ORIGIN)
        step.worker(worker_id, None, (order,))
        await self.log.commit(step)

    async def worker(self, worker_id: str) -> Fence:
        await self.order(worker_id)
        epoch = await self.log.allocate_epoch(POOL)
        start = workers.Start(host="host-1", pid=4242, start_time=77)
        await self.log.act_on_worker(POOL, worker_id, start, ORIGIN, epoch=epoch)
        return Fence(worker_id, epoch)

    async def lose(self, worker_id: str) -> None:
        epoch = await self.log.allocate_epoch(POOL)
        fence = workers.DeclareLost(reason="order-lapsed")
        await self.log.act_on_worker(POOL, worker_id, fence, ORIGIN, epoch=epoch)

    async def decide(self) -> None:
        step = self.log.step(POOL, ORIGIN)
        step.event(PoolScalingDecided("need", 1, 1, 1, 1, 1, 2, 2, 2), POOL)
        await self.log.commit(step)


async def lived(url: str) -> Any:
    """The content of Redis afterwards, masked."""
    numbers = itertools.count(1)
    client, reader = Client(url), Reader(url)
    log = Log(client, Keys())
    log.new_id = lambda: f"id-{next(numbers)}"
    try:
        with redis.Redis.from_url(url) as server:
            await Life(log, CatalogueLog(log, reader)).live(server)
    finally:
        await reader.close()
        await client.aclose()
    return masked(recorded.dump(url))


def masked(found: list[dict[str, Any]]) -> Any:
    """Without what depends on the time of day: entry ids, times in ms, renewals in us."""
    for one in found:
        if "expires in ms" in one:
            one["expires in ms"] = round(one["expires in ms"], -4)
        if one["key"].endswith(":parked"):  # what Lua encodes has no order
            one["fields"] = {key: json.loads(text) for key, text in one["fields"].items()}
    text = json.dumps(found)
    for pattern, mask in ((r"1\d{12}-\d+", "<id>"), (r"1\d{15}", "<us>"), (r"1\d{12}", "<ms>")):
        text = re.sub(rf"(?<![0-9]){pattern}(?:\.0)?(?![0-9])", mask, text)
    text = re.sub(r": (<[ums]+>)", r': "\1"', text)
    return json.loads(text)


async def test_redis_contains_what_the_recorded_sample_contains(any_redis_url: str) -> None:
    found, wanted = await lived(any_redis_url), json.loads(SAMPLE.read_text())
    assert [one["key"] for one in found] == [one["key"] for one in wanted]
    for one, sample in zip(found, wanted, strict=True):
        assert one == sample
        if one["type"] == "stream":  # its fields are read by position
            assert golden.text_of(one) == golden.text_of(sample)


if __name__ == "__main__":
    SAMPLE.write_text(golden.text_of(asyncio.run(lived(sys.argv[1]))))
