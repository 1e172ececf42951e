"""An operator at work: workers are cordoned, drained and replaced, pools are paused, agents moved.

All of it is asked for at the gateways, as the load's commands are, and some of it more than once at
a time. In the end `finish` withdraws what has not ended by itself.
"""

import asyncio
import json
from random import Random
from typing import Any, Final

import redis

from tests.chaos.asking import API, Answer
from tests.chaos.commands import ChangePool, Desk
from tests.chaos.configuration import LIMITS, PLACED, STEADY, STRATEGIES
from tests.chaos.load import Load
from tests.chaos.orders import (
    OURS,
    STATE_LOST,
    DiscardState,
    PausePool,
    ReplacePool,
    WorkerCommand,
)
from tests.chaos.system import System
from tests.chaos.views import select
from tests.waiting import until

OPERATED: Final = (STEADY, PLACED)
STEADY_SHARE: Final = 0.75
"""Of what is done: agents of the other pool are moved, which needs workers that stay."""
FOLLOW_SECONDS: Final = 12.0
"""By then whoever leads a pool knows its settings: a connection that fell silent is given up."""
PAUSED_SECONDS: Final = (4.0, 8.0)
WITHDRAW_SECONDS: Final = 30.0
COUNTED: Final = {
    "worker.cordoned": "cordons",
    "worker.uncordoned": "uncordons",
    "worker.draining": "drains",
    "pool.replacement_started": "replacements",
    "pool.replacement_finished": "finished",
    "pool.replacement_stopped": "stopped",
    "agent.saved": "saves",
    "agent.state_lost": "states lost",
}
MOVED: Final = "'%\"moved\"%'"
Position = tuple[int, int, int, int]
"""Generation and seq of a pool's log, and of the catalogue, at one point in time."""


class Operator:
    """Clients of the load that operate two of its pools."""

    def __init__(self, system: System, desk: Desk, load: Load) -> None:
        self._system, self._desk, self._load = system, desk, load
        self._pauses = system.folder / "paused.jsonl"

    def start(self) -> None:
        self._load.client("cordons", self._cordon)
        self._load.client("drains", self._drain)
        self._load.client("replaces", self._replace)
        self._load.client("consolidates", self._consolidate)
        self._load.client("pauses", self._pause)
        self._load.client("places", self._place)
        self._load.client("discards", self._discard)

    async def finish(self, random: Random) -> list[str]:
        """Withdraw every cordon, replacement and pause; returns what could not be withdrawn."""
        left: list[str] = []

        async def withdrawn() -> bool:
            left[:] = await self._withdraw(random)
            return not left

        try:
            await until(withdrawn, timeout=WITHDRAW_SECONDS, interval=0.5)
        except AssertionError:
            return left
        return []

    async def _withdraw(self, random: Random) -> list[str]:
        left = []
        await self._discard_lost(random)
        for pool in OPERATED:
            for request in (f"pools/{pool}/resume", f"pools/{pool}/replace/cancel"):
                answer = await self._post(random, request)
                if answer.status != 200:
                    left.append(f"{request}: {answer.said}")
            for worker in await self._workers(random, pool):
                if (worker.get("cordon_kept") or worker["cordoned"]).startswith(OURS):
                    answer = await self._post(random, f"workers/{worker['worker_id']}/uncordon")
                    left.append(f"worker {worker['worker_id']} was cordoned: {answer.said}")
        return left

    # ---- workers -------------------------------------------------------------------------------

    async def _cordon(self, random: Random) -> None:
        while True:
            await asyncio.sleep(random.uniform(1, 3))
            if worker := await self._any_worker(random):
                await self._act(random, worker, "cordon")
                await asyncio.sleep(random.uniform(1, 4))
                await self._act(random, worker, random.choice(("uncordon", "uncordon", "drain")))

    async def _drain(self, random: Random) -> None:
        """At once, or at a deadline, which may be withdrawn."""
        while True:
            await asyncio.sleep(random.uniform(2, 5))
            if worker := await self._any_worker(random):
                seconds = random.choice((0.0, 0.0, 1.0, 3.0, 6.0))
                await self._act(random, worker, "drain", seconds)
                if seconds and random.random() < 0.3:
                    await asyncio.sleep(random.uniform(0, seconds))
                    await self._act(random, worker, "uncordon")

    async def _replace(self, random: Random) -> None:
        """All workers of a pool, one or two at a time; it may be cancelled."""
        while True:
            await asyncio.sleep(random.uniform(1, 6))
            pool, seconds = _pool(random), random.choice((0.0, 0.0, 1.0, 2.0))
            how: dict[str, object] = {
                "max_unavailable": random.randint(1, 2),
                "deadline_seconds": seconds,
            }
            command = ReplacePool(self._desk, random, pool, self._load.number(), how)
            entry = await command.carry_out()
            await asyncio.sleep(random.uniform(2, 8))
            if entry.status == "acknowledged" and random.random() < 0.3:
                await self._post(random, f"pools/{pool}/replace/cancel")

    async def _any_worker(self, random: Random) -> dict[str, Any] | None:
        workers = await self._workers(random, _pool(random))
        return random.choice(workers) if workers else None

    async def _workers(self, random: Random, pool: str) -> list[dict[str, Any]]:
        """Those that have started and not ended, as far as that is known."""
        path = f"{API}/workers?pool_name={pool}"
        answer = await self._desk.ask(random, "GET", path)
        found: list[dict[str, Any]] = answer.body["workers"] if answer.status == 200 else []
        return [worker for worker in found if worker["status"] != "requested"]

    async def _act(
        self, random: Random, worker: dict[str, Any], kind: str, seconds: float = 0.0
    ) -> None:
        pool, name, number = worker["pool_name"], worker["worker_id"], self._load.number()
        command = WorkerCommand(self._desk, random, pool, number, kind, name)
        command.deadline_seconds = seconds
        await command.carry_out()

    async def _post(self, random: Random, path: str) -> Answer:
        return await self._desk.ask(random, "POST", f"{API}/{path}")

    # ---- agents that are moved and placed ------------------------------------------------------

    async def _consolidate(self, random: Random) -> None:
        while True:
            await asyncio.sleep(random.uniform(3, 8))
            await self._post(random, f"pools/{PLACED}/consolidate")

    async def _place(self, random: Random) -> None:
        """By one strategy after the other, and now and then by none."""
        while True:
            await asyncio.sleep(random.uniform(3, 7))
            number = self._load.number()
            config: dict[str, object] = {"empty_worker_seconds": 1.0 + int(number) / 1e5}
            if random.random() < 0.2:
                config |= {"placement": "pull", **dict.fromkeys(LIMITS)}
            else:
                config |= {"placement": random.choice(STRATEGIES), **LIMITS}
            await ChangePool(self._desk, random, PLACED, number, config).carry_out()

    async def _discard(self, random: Random) -> None:
        """Decide about agents that wait for that, as an operator would after a while."""
        while True:
            await asyncio.sleep(random.uniform(3, 6))
            await self._discard_lost(random)

    async def _discard_lost(self, random: Random) -> None:
        answer = await self._desk.ask(random, "GET", f"{API}?status=pending&limit=100")
        for row in answer.body["agents"] if answer.status == 200 else ():
            agent_id = row["agent_id"]
            if row["reason"] == STATE_LOST and agent_id not in self._load.states.copied:
                number = self._load.number()
                await DiscardState(
                    self._desk, random, row["pool_name"], number, agent_id
                ).carry_out()

    # ---- pauses --------------------------------------------------------------------------------

    async def _pause(self, random: Random) -> None:
        pool = STEADY
        while True:
            command = PausePool(self._desk, random, pool, self._load.number())
            if (await command.carry_out()).status == "acknowledged":
                await asyncio.sleep(FOLLOW_SECONDS)
                since = await asyncio.to_thread(self._position, pool)
                try:
                    await asyncio.sleep(random.uniform(*PAUSED_SECONDS))
                finally:
                    await asyncio.to_thread(self._note, pool, since)
            await self._post(random, f"pools/{pool}/resume")
            await asyncio.sleep(random.uniform(4, 12))
            pool = _pool(random)

    def _note(self, pool: str, since: Position | None) -> None:
        """Note for the judge that the pool was paused since then, if both logs are the same."""
        now = self._position(pool)
        if since is None or now is None or since[::2] != now[::2]:
            return
        generation, seq, catalogue_generation, catalogue_seq = since
        pause = {
            "pool": pool,
            "generation": generation,
            "seq": seq,
            "until_seq": now[1],
            "catalogue_generation": catalogue_generation,
            "catalogue_seq": catalogue_seq,
            "catalogue_until": now[3],
        }
        with self._pauses.open("a") as file:
            file.write(json.dumps(pause) + "\n")

    def _position(self, pool: str) -> Position | None:
        """None where Redis does not answer."""
        try:
            with self._system.redis.client() as client, client.pipeline() as both:
                for key in (f"pool:{{{pool}}}:meta", "{muster:catalogue}:meta"):
                    both.hmget(key, "generation", "seq")
                found = [int(number or 0) for one in both.execute() for number in one]
        except redis.RedisError:
            return None
        return found[0], found[1], found[2], found[3]


def _pool(random: Random) -> str:
    return STEADY if random.random() < STEADY_SHARE else PLACED


def operated(url: str) -> str:
    """What came of it, from the archive."""
    counts = dict(select(url, "SELECT type, COUNT(*) FROM {}events GROUP BY type"))
    moved = f"SELECT COUNT(*) FROM {{}}events WHERE type = 'agent.released' AND data LIKE {MOVED}"
    found = {name: counts.get(kind, 0) for kind, name in COUNTED.items()}
    found["moves"] = select(url, moved)[0][0]
    return ", ".join(f"{count} {name}" for name, count in found.items())
