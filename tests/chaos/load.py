"""The load of a run: clients that ask for agents, end them, read, and change pools.

What each client requests, and when, comes from its own generator; the number of live agents stays
near a constant, so that the pools are neither empty nor full. The load continues during faults.
"""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

from tests.chaos.asking import API
from tests.chaos.commands import ChangePool, CreatePool, DeletePool, Desk, Spawn, Terminate
from tests.chaos.configuration import CAPPED, FREE, PASSING, PLACED, STEADY, passing_config
from tests.chaos.journal import Entry
from tests.chaos.schedule import stream
from tests.chaos.states import States

LIVING = 24
"""About so many agents of the load are live at a time."""
SPAWNERS = 3
PAUSE_SECONDS = (0.05, 0.5)
READ_SECONDS = (0.1, 0.6)
KEYED_SHARE = 0.6
COMPLETES_SHARE = 0.15
"""Of the agents: these end by themselves after a while."""
MISBEHAVES_SHARE = 0.1
"""These do to their process what agents do (`misbehaving.py`), among the others."""
LINGERS_SHARE = 0.3
"""These take a while to stop."""
WAVE = (6, 12)
"""So many agents come together to the pool whose agents are placed..."""
REMAIN = (2, 5)
"""...and so many of them remain."""
PROJECTS = (CAPPED, "heavy", "light")
IN_FLIGHT = 40
"""Commands that wait for an answer at a time; beyond that a client waits."""


class Load:
    """Clients, each a task. `start` them, `stop` them; `spawn` is for faults that bring agents."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk = desk
        self.living: list[str] = []
        self.states = States()
        self.reads = 0
        self.failures: list[str] = []
        """Clients and commands that ended by an error of the harness; they are not replaced."""
        self._seed = seed
        self._number = 0
        self._coming = 0
        self._clients: list[asyncio.Task[None]] = []
        self._commands: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(IN_FLIGHT)

    def start(self) -> None:
        for number in range(SPAWNERS):
            self.client(f"spawner-{number}", self._ask_for_agents)
        self.client("reader", self._read)
        self.client("changer", self._change_pools)
        self.client("passer", self._create_and_delete_pools)
        self.client("waves", self._come_in_waves)

    async def stop(self, timeout_seconds: float) -> None:
        """Start no new commands, and wait for running ones; cancel the rest after the timeout."""
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if self._commands:
            await asyncio.wait(self._commands, timeout=timeout_seconds)
        self.desk.closing = True
        if self._commands:
            await asyncio.wait(self._commands, timeout=30.0)

    def cancel(self) -> None:
        """Drop everything, as at Ctrl-C."""
        for task in (*self._clients, *self._commands):
            task.cancel()

    def spawn(self, random: Random, pool: str, *, keyed: bool = True, **wanted: Any) -> Spawn:
        """A spawn with a number of its own; the caller carries it out."""
        return Spawn(self.desk, random, pool, self.number(), keyed=keyed, **wanted)

    def number(self) -> str:
        """The number of the next command."""
        self._number += 1
        return str(self._number)

    def start_command(self, command: Coroutine[Any, Any, None]) -> None:
        """Run a command concurrently."""
        task = asyncio.create_task(command)
        self._commands.add(task)
        task.add_done_callback(self._ended)

    async def terminate(self, random: Random, pool: str, agent_id: str) -> Entry:
        return await Terminate(self.desk, random, pool, self.number(), agent_id).carry_out()

    # ---- the clients ---------------------------------------------------------------------------

    def client(self, name: str, work: Any) -> None:
        """Run a client until the load is stopped: a function of its generator."""
        task = asyncio.create_task(work(stream(self._seed, name)), name=name)
        task.add_done_callback(self._ended)
        self._clients.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._commands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(f"a client of the load failed ({task.get_name()}): {error!r}")

    async def _ask_for_agents(self, random: Random) -> None:
        while True:
            async with self._room:
                pass
            coming = len(self.living) + self._coming
            if coming < random.randint(LIVING - 8, LIVING + 8):
                self._coming += 1
                self.start_command(self._bring(random))
            elif self.living:
                chosen = self.living.pop(random.randrange(len(self.living)))
                self.start_command(self._end(random, STEADY, self.living, chosen))
            await asyncio.sleep(random.uniform(*PAUSE_SECONDS))

    async def _bring(self, random: Random) -> None:
        wanted: dict[str, Any] = {}
        completes = random.random() < COMPLETES_SHARE
        if completes:
            wanted["input"] = {"do": "complete", "after": random.uniform(0.2, 5)}
        elif random.random() < MISBEHAVES_SHARE:
            wanted["input"] = {"misbehave": str(random.randrange(1_000_000))}
        elif random.random() < LINGERS_SHARE:
            wanted["input"] = {"linger": random.uniform(0.1, 0.9)}
        spawn = self.spawn(random, STEADY, keyed=random.random() < KEYED_SHARE, **wanted)
        try:
            async with self._room:
                entry = await spawn.carry_out()
        finally:
            self._coming -= 1
        if entry.status == "acknowledged" and not completes:
            self.living.append(entry.agent_id)

    async def _end(self, random: Random, pool: str, living: list[str], agent_id: str) -> None:
        async with self._room:
            entry = await self.terminate(random, pool, agent_id)
        if entry.status == "refused" and agent_id not in self.desk.missing:
            living.append(agent_id)  # to be asked again, or the pool would fill up in time

    async def _read(self, random: Random) -> None:
        while True:
            await asyncio.sleep(random.uniform(*READ_SECONDS))
            known = self.desk.journal.acknowledged
            paths = [f"{API}?limit=50", f"{API}/pools", f"{API}/monitor/system", f"{API}/health"]
            if known and random.random() < 0.6:
                agent_id = random.choice(known[-200:])
                path = f"{API}/{agent_id}"
            else:
                agent_id, path = "", random.choice(paths)
            position = self.desk.positions.get(agent_id, "")
            headers = {"Muster-Position": position} if position else {}
            answer = await self.desk.ask(random, "GET", path, headers=headers)
            self.reads += 1
            if answer.status == 503 and answer.kind != "views-unavailable":
                self.desk.offences.append(
                    f"GET {path}: {answer.said}; a read needs the views alone"
                )
            if answer.status == 404 and not answer.stale:
                self.desk.missing[agent_id] = f"GET {path}: {answer.said}"

    async def _change_pools(self, random: Random) -> None:
        """Scaling settings of a pool, now and then, never the same: there is always a change."""
        while True:
            await asyncio.sleep(random.uniform(2, 6))
            number = self.number()
            config: dict[str, object] = {
                "max_workers": random.randint(7, 9),
                "empty_worker_seconds": random.choice((2.0, 5.0, 10.0)) + int(number) / 1e5,
            }
            await ChangePool(self.desk, random, STEADY, number, config).carry_out()

    async def _create_and_delete_pools(self, random: Random) -> None:
        """Create a pool, use it, and delete it with its agents; the name is used again later."""
        while True:
            await asyncio.sleep(random.uniform(2, 6))
            pool = random.choice(PASSING)
            config = passing_config()
            await CreatePool(self.desk, random, pool, self.number(), config).carry_out()
            for _ in range(random.randint(0, 4)):
                self.start_command(self._bring_passing(random, pool))
            await asyncio.sleep(random.uniform(0, 2))
            await DeletePool(self.desk, random, pool, self.number()).carry_out()

    async def _bring_passing(self, random: Random, pool: str) -> None:
        spawn = self.spawn(random, pool, keyed=random.random() < KEYED_SHARE)
        async with self._room:
            await spawn.carry_out()

    async def _come_in_waves(self, random: Random) -> None:
        """Agents come together, and few of them stay: their pool is thinly used then."""
        living: list[str] = []
        while True:
            for _ in range(random.randint(*WAVE)):
                self.start_command(self._bring_placed(random, living))
                await asyncio.sleep(random.uniform(0.0, 0.2))
            await asyncio.sleep(random.uniform(2, 4))
            random.shuffle(living)
            remain = random.randint(*REMAIN)
            for agent_id in living[remain:]:
                self.start_command(self._end(random, PLACED, living, agent_id))
            del living[remain:]
            await asyncio.sleep(random.uniform(6, 10))

    async def _bring_placed(self, random: Random, living: list[str]) -> None:
        labels = {"kind": random.choice("abc")}
        if random.random() < 0.5:
            labels |= dict([FREE])
        wanted: dict[str, Any] = {"input": {"idles": True}, "labels": labels}
        wanted |= {"project_id": random.choice(PROJECTS), "priority": random.randint(0, 9)}
        spawn = self.spawn(random, PLACED, keyed=random.random() < KEYED_SHARE, **wanted)
        async with self._room:
            entry = await spawn.carry_out()
        if entry.status == "acknowledged":
            living.append(entry.agent_id)
