"""The placer of a pool: its leader, where the pool's settings name a strategy.

It follows the pool's events, so that it knows of a spawn or of a free slot as soon as these are
recorded, and hands over what may run. The script refuses what has changed meanwhile, and whatever a
former leader still attempts. A placer has nothing that another could not read: when it dies, the
next leader goes on. In a pool without a placer nothing of this runs.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import structlog

from eventstore.connection.calls import ask
from eventstore.errors import LogError, UnknownEvent
from eventstore.language import placement
from eventstore.language.events import AgentClaimed, decode_entry
from eventstore.language.placement_policy import RESOURCE, Cap, PlacementPolicy
from eventstore.log import placing
from eventstore.log.placing import PLACED, PLACER, Assignment
from eventstore.log.reader import Entry
from eventstore.log.replies import Leadership
from eventstore.log.survey import Survey
from eventstore.steps import clauses
from workers.supervisor.pressures import pressures, worker_usage
from workers.supervisor.reaper import consumers, requeue_unclaimed
from workers.supervisor.roster import Roster
from workers.supervisor.worker_monitor import PoolContext

log = structlog.get_logger("muster.leader")

CAPS_REPORTED: Final = 500
RETRY_SECONDS: Final = 0.5
REQUEUE_ROUNDS: Final = 50
IS_PLACED: Final = "1"
WAS_PLACED: Final = "0"
"""Of the field `placed` of the meta hash, which scripts read."""


class OutOfStep(Exception):
    """What is known is not what the log has: it is to be read again."""


class Placer:
    """Places the agents of one pool within one term of its leader, while its settings say so."""

    def __init__(self, context: PoolContext, lead: Leadership) -> None:
        self.held_back: Mapping[str, Cap] = {}
        """The waiting agents that caps hold back."""
        self._context, self._pool_log, self._lead = context, context.pool_log, lead
        self._events = context.pool_log.log.keys.pool(context.pool_log.pool, "events")
        self._task: asyncio.Task[None] | None = None
        self._roster: Roster | None = None
        self._position, self._seq, self._disagreed_at = "", 0, ""
        self._without_room: set[str] = set()
        self._pressures: Mapping[str, float] = {}
        self._placing = asyncio.Lock()
        self._reported: str | None = None
        self._rounds_to_requeue = 0

    async def reconcile(self, survey: Survey) -> None:
        """Place, or stop to do so, as the pool's settings say."""
        policy = self._policy()
        if policy is None:
            await self.stop()
            await self._return_to_pull(survey)
            return
        if survey.placed != IS_PLACED:
            self._reported = None  # a recovered log has lost this, too
            await self._context.write_as(self._lead, clauses.SetMeta("placed", IS_PLACED))
        try:
            async with self._placing:
                await self._reconcile(survey, policy)
        except OutOfStep as error:
            self._forget(error)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _reconcile(self, survey: Survey, policy: PlacementPolicy) -> None:
        self._without_room = {o.worker.worker_id for o in survey.workers if not o.has_room}
        self._pressures = await self._read_pressures(survey)
        if self._roster is not None and not self._agrees(self._roster, survey):
            self._roster = None
        roster = self._roster = self._roster or await self._load()
        if policy.has_caps:  # what they hold back is no load: it is to be known by now
            await self._catch_up(roster)
        await self._place_all(roster, policy)

    def _forget(self, error: OutOfStep) -> None:
        log.warning("placer.reads_again", pool=self._pool_log.pool, reason=str(error))
        self._roster = None

    def may_run(self, waiting: int) -> int:
        """How many of so many that wait no cap holds back."""
        if not self.held_back or self._roster is None:
            return waiting
        return max(min(waiting, len(self._roster.waiting)) - len(self.held_back), 0)

    async def stop(self) -> None:
        """A second call does nothing."""
        task, self._task, self._roster, self.held_back = self._task, None, None, {}
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _policy(self) -> PlacementPolicy | None:
        pool = self._context.pool()
        return None if pool.deleted else pool.config.placement_policy

    async def _read_pressures(self, survey: Survey) -> Mapping[str, float]:
        """With every survey, where the strategy needs them."""
        config = self._context.pool().config
        if config.placement != RESOURCE:
            return {}
        reports, now_ms = await self._context.reports.read(), survey.ts
        hosts = {host: one.pressure for host, one in reports.items() if not one.is_old(now_ms)}
        return pressures(survey, await worker_usage(self._pool_log, survey), hosts, config)

    async def _return_to_pull(self, survey: Survey) -> None:
        """Workers claim again; what was read for the placer is queued again, for them.

        A thousand in each round. What is left after all rounds, and where the leader changes, is
        queued again as are all strays.
        """
        if survey.placed == IS_PLACED:
            switch = clauses.SetMeta("placed", WAS_PLACED), clauses.SetMeta("capped", "")
            await self._context.write_as(self._lead, *switch, clauses.WakeWorkers())
            self._rounds_to_requeue = REQUEUE_ROUNDS
        if self._rounds_to_requeue:
            self._rounds_to_requeue -= 1
            if PLACER in await consumers(self._pool_log):
                await requeue_unclaimed(self._pool_log, PLACER)
            else:
                self._rounds_to_requeue = 0

    # ---- following -----------------------------------------------------------------------------

    async def _run(self) -> None:
        """Follow the events until all is to be read again, or cancelled."""
        reader, pool = self._context.new_reader(), self._pool_log.pool
        try:
            while True:
                try:
                    found = await reader.read({self._events: self._position})
                    await self._follow(found.get(self._events, ()))
                    if self._roster is None:  # the next round reads it
                        await asyncio.sleep(RETRY_SECONDS)
                except LogError as error:
                    log.warning("placer.waits", pool=pool, error=str(error))
                    await asyncio.sleep(RETRY_SECONDS)
        except OutOfStep as error:
            self._forget(error)
        except Exception:
            log.exception("supervisor.error", during="placing")
            self._roster = None
        finally:
            await reader.close()

    async def _load(self) -> Roster:
        """Read the states. Events that come meanwhile are folded again, which changes nothing."""
        pool_log = self._pool_log
        newest = await self._ask("XREVRANGE", "+", "-", "COUNT", "1")
        self._position, self._seq = newest[0][0].decode() if newest else "0", 0
        survey = await pool_log.survey()
        agents = await placing.read_agents(pool_log.log, pool_log.pool, await pool_log.live())
        all_workers = [observed.worker for observed in survey.workers]
        return Roster(pool_log.pool, agents, all_workers, survey.ts)

    async def _catch_up(self, roster: Roster) -> None:
        while entries := await self._ask("XRANGE", f"({self._position}", "+", "COUNT", "1000"):
            self._fold_all(roster, entries)

    async def _ask(self, *command: str) -> list[Entry]:
        client, name = self._pool_log.log.client, command[0]
        doing = f"pool {self._pool_log.pool!r}: events"
        found: list[Entry] = await ask(client, name, self._events, *command[1:], doing=doing)
        return found

    async def _follow(self, entries: Sequence[Entry]) -> None:
        """Fold events, and place what they make possible."""
        async with self._placing:
            roster, policy = self._roster, self._policy()
            if roster is not None and policy is not None and entries:
                self._fold_all(roster, entries)
                await self._place_all(roster, policy)

    def _fold_all(self, roster: Roster, entries: Sequence[Entry]) -> None:
        for stream_id, fields in entries:
            try:
                event = decode_entry(stream_id, fields)
            except UnknownEvent:  # of a newer version: `_agrees` notices what it changes
                self._position, self._seq = stream_id.decode(), 0
                continue
            if self._seq and event.seq <= self._seq:
                continue  # it was read by `_catch_up`
            if self._seq and event.seq > self._seq + 1:
                raise OutOfStep(f"seq {event.seq} follows {self._seq}")
            self._position, self._seq = event.stream_id, event.seq
            self._without_room.discard(event.worker_id)
            roster.apply(event)

    def _agrees(self, roster: Roster, survey: Survey) -> bool:
        """Whether it knows the pool: two surveys with no event between may not say otherwise."""
        before, self._disagreed_at = self._disagreed_at, ""
        if not roster.agrees_with(survey):
            self._disagreed_at = self._position
        return not before or before != self._disagreed_at

    # ---- placing -------------------------------------------------------------------------------

    async def _place_all(self, roster: Roster, policy: PlacementPolicy) -> None:
        pool_log = self._pool_log
        revived, roster.unknown = roster.unknown, set()
        for agent in await placing.read_agents(pool_log.log, pool_log.pool, revived):
            roster.put(agent, pool_log.now_ms())
        while await self._place_some(roster, policy):
            pass
        await self._report_caps(roster, policy)

    async def _place_some(self, roster: Roster, policy: PlacementPolicy) -> bool:
        """Returns whether anything was placed: there may be more."""
        if not roster.waiting:
            return False
        limit, now_ms = self._context.pool().config.isolation_limit, self._pool_log.now_ms()
        rooms = roster.rooms(self._without_room, self._pressures, isolation_limit=limit)
        found = placement.place(roster.waiting.values(), rooms, policy, now_ms=now_ms).assignments
        if not found:
            return False
        free = sum(one.accepts and len(one.agents) < one.slots for one in rooms)
        assignments = [
            Assignment(
                *(agent_id, roster.incarnation(agent_id), worker_id, roster.epoch(worker_id)),
                AgentClaimed(strategy=policy.strategy, rooms=free, cap=self._cap_before(agent_id)),
            )
            for agent_id, worker_id in found
        ]
        outcomes = await placing.place(self._pool_log, self._lead, assignments)
        for (agent_id, worker_id), outcome in zip(found, outcomes, strict=True):
            if outcome == PLACED:
                roster.book(agent_id, worker_id, now_ms)
            elif outcome == placing.NO_ROOM:
                self._without_room.add(worker_id)
            elif outcome != placing.UNREAD:
                roster.pass_over(agent_id)
        return PLACED in outcomes

    def _cap_before(self, agent_id: str) -> str:
        return self.held_back[agent_id].kind if agent_id in self.held_back else ""

    async def _report_caps(self, roster: Roster, policy: PlacementPolicy) -> None:
        """Let those who ask for a pending agent know that a cap holds it back; on change only."""
        self.held_back = {}
        if policy.has_caps and roster.waiting:
            self.held_back = placement.held_back(roster.waiting.values(), roster.rooms(), policy)
        caps = sorted({(cap.kind, cap.of, cap.limit) for cap in self.held_back.values()})
        text = msgspec.json.encode(caps[:CAPS_REPORTED]).decode() if caps else ""
        if text != self._reported:
            await self._context.write_as(self._lead, clauses.SetMeta("capped", text))
            self._reported = text
