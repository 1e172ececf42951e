"""Workers without processes: they start, claim and renew as real ones do, all in this process.

    python -m tests.bench.simulated_workers REDIS_URL ROLE

Reads names of pools from its standard input, with a number of workers each; for each it starts the
workers, and says so once these have claimed ten agents each. It ends with its input.
"""

import asyncio
import itertools
import random
import sys
import time

import msgspec

from eventstore.connection.clients import Client
from eventstore.ids import new_id
from eventstore.keys import Keys
from eventstore.language import workers
from eventstore.language.events import WorkerRequested
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.log.script_runner import script
from eventstore.steps.step import Fence, Origin

ORIGIN = Origin(actor="test")
SLOTS = 10
RENEW_SECONDS = 3.0
CLAIM_SECONDS = 60.0
RETAINED_MS = 3_600_000


class SimulatedWorkers:
    """Those of one Redis."""

    def __init__(self, url: str, role: str) -> None:
        self._client = Client(url)
        self._log = Log(self._client, Keys())
        self._role = role
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers = itertools.count()

    async def start(self, pool: str, count: int) -> None:
        """Start workers, and return once each has ten agents."""
        fences = [await self._register(pool) for _ in range(count)]
        sys.stdout.write("started\n")
        sys.stdout.flush()
        for fence in fences:
            agents = await self._claim(pool, fence)
            self._tasks.append(asyncio.create_task(self._renew(pool, fence, agents)))

    async def _register(self, pool: str) -> Fence:
        worker_id = new_id()
        step = self._log.step(pool, ORIGIN)
        deadline = self._log.now_ms(pool) + 600_000
        order = WorkerRequested(host="simulated", max_agents=SLOTS, deadline_ms=deadline)
        step.worker(worker_id, None, (order,))
        assert (await self._log.commit(step)).outcome is Outcome.DONE
        epoch = await self._log.allocate_epoch(pool)
        start = workers.Start(host="simulated", pid=1, start_time=1)
        acted = await self._log.act_on_worker(pool, worker_id, start, ORIGIN, epoch=epoch)
        assert acted.outcome is Outcome.DONE
        return Fence(worker_id, epoch)

    async def _claim(self, pool: str, fence: Fence) -> list[str]:
        agents: list[str] = []
        until = time.monotonic() + CLAIM_SECONDS
        while len(agents) < SLOTS:
            assert time.monotonic() < until, f"{len(agents)} agents in {pool}"
            _, claimed = await self._log.claim(pool, fence, SLOTS - len(agents), starts=self._role)
            agents += [one.agent.agent_id for one in claimed]
            await asyncio.sleep(0 if claimed else 0.05)
        return agents

    async def _renew(self, pool: str, fence: Fence, agents: list[str]) -> None:
        keys, source = self._log.keys, script("renew")
        activity = {"agents": dict.fromkeys(agents, "idle"), "loop_lag_ms": 0.1}
        data = msgspec.json.encode(
            {**activity, "agent_count": len(agents), "memory_bytes": 30_000_000}
        )
        await asyncio.sleep(RENEW_SECONDS * random.random())
        while True:
            high_water_mark = self._log.high_water_mark(pool)
            reply = await self._client.execute_command(
                "EVAL", source.text, 2, keys.pool(pool, "meta"), keys.pool(pool, "events"),
                *high_water_mark, fence.worker_id, fence.epoch, new_id(), data, RETAINED_MS, "",
                "10", "",
            )  # fmt: skip
            assert reply[0] == b"OK", reply
            await asyncio.sleep(RENEW_SECONDS * random.uniform(0.9, 1.0))


async def main() -> None:
    simulated = SimulatedWorkers(*sys.argv[1:])
    while line := await asyncio.to_thread(sys.stdin.readline):
        pool, count = line.split()
        await simulated.start(pool, int(count))
        sys.stdout.write("claimed\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
