"""One run: start the system and its load, break things round by round, let it rest, judge it."""

import asyncio
import time
from pathlib import Path
from random import Random

from tests.chaos import neighbours
from tests.chaos.commands import ChangePool, Desk
from tests.chaos.configuration import LIMITS, PLACED, POOLS, PROBE, STEADY
from tests.chaos.ends import ended, judge_ends
from tests.chaos.faults import FAULTS, Scene
from tests.chaos.healing import NotHealed, heal
from tests.chaos.journal import Journal
from tests.chaos.listening import Listener, judge_received
from tests.chaos.load import Load
from tests.chaos.misbehaving import left
from tests.chaos.operating import Operator, operated
from tests.chaos.options import Options
from tests.chaos.recovering import Recovery, Unrecovered
from tests.chaos.report import Figures, TimeLine, left_undone
from tests.chaos.rest import come_to_rest
from tests.chaos.schedule import Injection, Round, rounds, stream
from tests.chaos.system import System
from tests.chaos.usage import judge_usage
from tests.chaos.verdict import judge
from tests.waiting import until

SETTLE_SECONDS = 20.0
"""How long unfinished commands may take after the last fault."""
FIRST_SECONDS = 60.0
POLL_SECONDS = 0.3
LEFT_SECONDS = 15.0
"""After the end of agents nothing is left of them."""
REST_WORKERS = 40
PULLED: dict[str, object] = {"consolidate": "off", "placement": "pull", **dict.fromkeys(LIMITS)}
"""Without a placer caps hold nothing back."""
WORDS_MAX = 40
FAULT_SECONDS = 120.0
"""No fault lasts longer, its mending included."""


class Campaign:
    """See the module. `offences` is what was found wrong, in words."""

    def __init__(self, folder: Path, options: Options, faults: tuple[str, ...]) -> None:
        self.options = options
        self.figures = Figures()
        self.offences: list[str] = []
        self._faults = faults
        needs = frozenset().union(*(FAULTS[name].needs for name in faults))
        self.system = System(folder, options, clocks="clocks" in needs, disks="mounts" in needs)
        folder.mkdir(parents=True, exist_ok=True)
        self.line = TimeLine(folder / "timeline.txt")
        self.journal = Journal(folder / "journal.jsonl")
        self.recovery = Recovery(self.system)
        self.desk = Desk(self.system.gateways, self.journal, self.line.now, options.levels)
        self.load = Load(self.desk, options.seed)
        self.operator = Operator(self.system, self.desk, self.load)
        self.listener = Listener(self.system.gateways, stream(options.seed, "listener"))
        self._listening: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """The run from start to end. Offences are collected, not raised."""
        await self.system.start()
        self.line.say(f"ready: {', '.join(self.system.roles)}")
        await heal(self.system.gateways, "first", FIRST_SECONDS)
        self.load.start()
        self.operator.start()
        self._listening = asyncio.create_task(self.listener.listen(), name="listener")
        try:
            await self._break_things()
        finally:
            self.figures.reads = self.load.reads
        await self._rest()
        self.recovery.read_logs()
        received = await self._event_offences()
        self.line.say("judging")
        found = await asyncio.to_thread(
            judge, self.system.redis.url, self.system.views_url, self.system.folder
        )
        found += await judge_usage(self.system, stream(self.options.seed, "usage"))
        found += await self._neighbour_offences()
        self.offences += [
            *self.recovery.offences,
            *self.desk.offences,
            *self.load.failures,
            *self._missing(),
            *left_undone(self.journal, self.figures),
            *judge_ends(await asyncio.to_thread(ended, self.system.views_url)),
            *self.load.states.judge(self.system.views_url, recovered=self.recovery.count > 0),
            *(offence for role in self.system.roles.values() for offence in role.offences),
            *received,
            *found,
        ]
        self.figures.operated = operated(self.system.views_url)
        self.figures.recoveries = self.recovery.count
        self.figures.unsaved = self.recovery.unsaved
        starts = sum(role.starts for role in self.system.roles.values())
        self.figures.restarts = starts - len(self.system.roles)

    def _missing(self) -> list[str]:
        named = self.recovery.named
        return [
            f"{what}: it was acknowledged, and not named as lost"
            for agent_id, what in self.desk.missing.items()
            if agent_id not in named
        ]

    async def _neighbour_offences(self) -> list[str]:
        """What misbehaving agents did to others, and what is left of them once they have ended."""
        folder, random = self.system.folder / "trace", stream(self.options.seed, "neighbours")
        known = await asyncio.to_thread(neighbours.read, self.system.views_url, folder)
        self.line.say(known.summary)
        offences = list(known.offences())
        self.desk.closing = False
        for agent_id in known.living:
            await self.load.terminate(random, STEADY, agent_id)
        try:
            await until(lambda: not left(folder), timeout=LEFT_SECONDS)
        except AssertionError:
            offences += [f"left over: {pid} of {whose}" for pid, whose in left(folder).items()]
        with self.system.redis.client() as client:
            pids = {pool: neighbours.worker_pids(client, pool) for pool in (STEADY, PROBE)}
        return [*offences, *neighbours.grown(pids[STEADY], pids[PROBE])]

    async def _event_offences(self) -> list[str]:
        """Offences in the events that a client received."""
        rows = await self.listener.caught_up(self.system, self.options.timeout_seconds)
        self.figures.received = len(self.listener.received)
        self.figures.connections = self.listener.connections
        if self._listening is not None and self._listening.done():
            self.listener.offences.append(f"the listener ended: {self._listening}")
        lossy = self.recovery.count > 0
        return [*self.listener.offences, *judge_received(self.listener.received, rows, lossy=lossy)]

    async def close(self) -> None:
        """End everything that was started. A second call does nothing."""
        self.load.cancel()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self.system.stop()
        self.journal.close()
        self.line.close()

    # ---- rounds --------------------------------------------------------------------------------

    async def _break_things(self) -> None:
        ends = time.monotonic() + self.options.minutes * 60
        for planned in rounds(self.options.seed, self._faults):
            if time.monotonic() >= ends:
                return
            self.line.progress(f"{self._state()}; next: {planned.name}")
            await asyncio.sleep(planned.pause_seconds)
            if not await self._round(planned):
                return

    async def _round(self, planned: Round) -> bool:
        """Inject faults, repair them, wait until all works; False if it does not."""
        noted: dict[str, list[str]] = {}
        await asyncio.gather(*(self._inject(one, noted) for one in planned.injections))
        said = "; ".join(f"{name} ({', '.join(notes)})" for name, notes in noted.items())
        self.figures.rounds += 1
        self.figures.faults += len(planned.injections)
        self.line.progress(f"{self._state()}; healing after {planned.name}")
        try:
            seconds = await self._heal(str(planned.number))
        except (NotHealed, Unrecovered) as error:
            self.line.say(f"{said}: {error}")
            self.offences.append(f"after {said}: {error}")
            return False
        self.recovery.end_round()
        if seconds >= max(self.figures.heal_seconds, default=0.0):
            self.figures.slowest = f"{planned.name}, round {planned.number}"
        self.figures.heal_seconds.append(seconds)
        self.line.say(f"{said}: healed in {seconds:.1f} s")
        return True

    async def _heal(self, name: str) -> float:
        """Wait until all works again; where the log lost writes, recover it meanwhile."""
        watching = asyncio.create_task(self.recovery.watch())
        healing = asyncio.create_task(self._healed(name))
        try:
            await asyncio.wait({watching, healing}, return_when=asyncio.FIRST_COMPLETED)
            async with self.recovery.busy:  # its logs are open before it has reported
                pass
            return await (watching if watching.done() else healing)
        finally:
            for task in (watching, healing):
                task.cancel()
            await asyncio.gather(watching, healing, return_exceptions=True)

    async def _healed(self, name: str) -> float:
        began = time.monotonic()
        timeout = self.options.timeout_seconds
        await heal(self.system.gateways, name, timeout, self.recovery.note_problem)
        while damage := await self.recovery.damage(own=True):
            if time.monotonic() - began > timeout:
                raise NotHealed(f"not noticed within {timeout:g} s: {damage}")
            await asyncio.sleep(POLL_SECONDS)
        return time.monotonic() - began

    async def _inject(self, injection: Injection, noted: dict[str, list[str]]) -> None:
        await asyncio.sleep(injection.after_seconds)
        notes = noted.setdefault(injection.fault, [])
        random = Random(injection.seed)
        scene = Scene(self.system, self.load, self.recovery, random, notes.append, self._count)
        async with asyncio.timeout(FAULT_SECONDS):
            await FAULTS[injection.fault].run(scene)

    def _count(self, what: str) -> None:
        if what == "kill":
            self.figures.kills += 1
        else:
            self.figures.outages += 1

    def _state(self) -> str:
        counts = self.journal.counts
        return f"{self.line.now():.0f} s: {counts['acknowledged']} acknowledged"

    # ---- the end -------------------------------------------------------------------------------

    async def _rest(self) -> None:
        """Stop the load, resolve unknown outcomes, and let everything settle.

        The pools get slots for all, and no caps: spawns of unknown outcome may have filled them
        beyond what the load knows of, and an agent that waits for a slot is not at rest. Empty
        workers stay.
        """
        self.line.say("resting: no more faults, no more commands")
        (self.system.folder / "trace" / "calm").touch()
        await self.load.stop(SETTLE_SECONDS)
        await self._raise_capacity()
        random = stream(self.options.seed, "operator")
        self.offences += [f"not withdrawn: {one}" for one in await self.operator.finish(random)]
        left = await come_to_rest(self.system, self.options.timeout_seconds)
        self.offences += [f"not at rest: {what}" for what in left[:WORDS_MAX]]

    async def _raise_capacity(self) -> None:
        random = stream(self.options.seed, "rest")
        room: dict[str, object] = {"max_workers": REST_WORKERS, "empty_worker_seconds": 3600.0}
        for pool in POOLS:
            config = {**room, **(PULLED if pool == PLACED else {})}
            changed = await ChangePool(self.desk, random, pool, f"room-{pool}", config).carry_out()
            if changed.status != "acknowledged":
                self.offences.append(f"pool {pool} could not be changed at rest: {changed.said}")
