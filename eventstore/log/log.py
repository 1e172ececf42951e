"""The log: read a state, commit a step, claim work, renew a lease.

Retries are ours. A reply that never came is asked for again: a spawn by its operation id, every
other step by reading the state anew and deciding again (`act`), which comes to nothing if the
first attempt was written.
"""

from collections.abc import Callable

import structlog

from eventstore.connection.calls import AsyncClient
from eventstore.errors import (
    Busy,
    Halted,
    LogMissing,
    OutcomeUnknown,
    Recovered,
    RolledBack,
    Unreadable,
    WrongType,
)
from eventstore.ids import new_id
from eventstore.keys import CATALOGUE, Keys
from eventstore.language import agent_commands, workers
from eventstore.language.agent_commands import Command
from eventstore.language.agents import Agent
from eventstore.language.workers import Worker, WorkerCommand
from eventstore.log.commit_retry import ATTEMPTS, still_unknown
from eventstore.log.replies import (
    Acted,
    ActedOnWorker,
    Claimed,
    Lead,
    Outcome,
    Proof,
    Reply,
    Stand,
    fields_of,
    text_of,
)
from eventstore.log.script_runner import GuardedLog
from eventstore.log.survey import Observed, Survey, observed, scored, sorted_out
from eventstore.retention import Retention, Trimmed
from eventstore.steps import hashes
from eventstore.steps.step import Argument, Fence, Origin, Step

log = structlog.get_logger("muster.log")


TRIMMED_AT_ONCE = 5_000
"""About how many entries of a stream one step of trimming takes: a few milliseconds of Redis."""


class Log(GuardedLog):
    """The write side of every pool."""

    def __init__(
        self,
        client: AsyncClient,
        keys: Keys,
        *,
        make_id: Callable[[], str] = new_id,
        outlives: bool = True,
        retention: Retention | None = None,
    ) -> None:
        super().__init__(client, keys, outlives=outlives)
        self.retention = retention or Retention()
        self.new_id = make_id

    def step(self, pool: str, origin: Origin) -> Step:
        return Step(pool, self.new_id, origin, ended_ms=self.retention.ended_ms)

    # ---- scripts -----------------------------------------------------------------------------

    async def found(self) -> Reply:
        """Create the catalogue if there is none: only for who knows that there never was one."""
        return await self.run("init", CATALOGUE, 0, 1)

    async def initialise(self, pool: str) -> None:
        """Create a pool's streams and group, once: a pool that had them before has lost its log.

        It begins in the catalogue's generation: where a catalogue was recovered without a pool,
        whoever knew that pool's log is told that this is a later one. Raises `LogMissing` where
        they are gone, or where the catalogue is.
        """
        mark = f"made:{pool}"
        generation, made = await self._read(
            pool, "HMGET", self.keys.catalogue_meta, "generation", mark
        )
        if generation is None:
            raise LogMissing(CATALOGUE)
        if made is not None:
            return
        await self.run("init", pool, 1, generation)
        step = self.step(CATALOGUE, Origin())
        step.write("meta", mark, "1")
        await self.commit(step)

    async def stand(self, pool: str) -> Stand:
        """Where a log stands, whether it may be written or not."""
        fields = ("generation", "seq", "halted", "recovered_seq")
        found = await self._read(pool, "HMGET", self._meta(pool), *fields)
        generation, seq, halted, recovered_seq = (value or b"" for value in found)
        return Stand(int(generation or 0), int(seq or 0), halted.decode(), int(recovered_seq or 0))

    async def commit(self, step: Step, *, admits: bool = False, read_in: int = 0) -> Reply:
        """Commit a step once. `admits`: it adds load, so Redis' memory limit may refuse it.

        `read_in`: the generation that the step was decided in, 0 where it holds in any. In a later
        one a version says nothing: what was lost and what came instead may both have it.

        Raises `LogUnreachable` (`Recovered`, `NotEnoughReplicas` among them), `OutcomeUnknown`,
        `LogMissing`, `RolledBack`, `Halted`, `MemoryExhausted`.
        """
        generation, _ = self.floor(step.pool)
        if 0 < read_in < generation:
            raise Recovered(step.pool, generation)
        return await self._guarded("admit" if admits else "commit", step.pool, *step.arguments())

    async def claim(
        self,
        pool: str,
        fence: Fence,
        slots: int,
        *,
        again: bool = False,
        alone_limit: int = 1,
    ) -> tuple[Outcome, list[Claimed]]:
        """Claim up to `slots` spawns for a worker. `again`: also those told before, unsettled.

        `alone_limit`: how many workers of the pool may be taken by one agent each.
        """
        ids = [self.new_id() for _ in range(slots)]
        told_again = "1" if again else ""
        reply = await self._guarded(
            "claim", pool, fence.worker_id, fence.epoch, told_again, alone_limit, *ids
        )
        told = reply.rest[0] if reply.outcome is Outcome.DONE else ()
        claimed = []
        for entry in told:
            agent_id = entry[0].decode()
            try:
                agent = hashes.from_hash(agent_id, fields_of(entry[2:]))
            except Unreadable as error:
                await self.park(pool, error, holder=fence.worker_id)
                continue
            claimed.append(Claimed(agent, entry[1]))
        return reply.outcome, claimed

    async def park(
        self, pool: str, what: Unreadable, *, holder: str = "", content: bytes = b""
    ) -> None:
        """Put aside what cannot be processed, once. `holder`: the worker whose slot it has."""
        reply = await self._guarded(
            "park", pool, what.kind, what.subject, what.why, holder, content
        )
        if reply.rest[0]:
            log.error(
                "log.parked", pool=pool, source=what.kind, subject=what.subject, reason=what.why
            )

    async def draw_epoch(self, pool: str) -> int:
        """The next epoch of the pool."""
        reply = await self._guarded("draw", pool)
        return int(reply.rest[0])

    async def lead(
        self, pool: str, host: str, term: int, stale: Lead | None = None
    ) -> tuple[Outcome, Lead]:
        """Take, keep or observe the lead; `stale` is a leader seen to stand still for a lease."""
        seen: tuple[Argument, Argument] = (stale.term, stale.renewal) if stale else ("", "")
        reply = await self._guarded("lead", pool, host, term, *seen)
        host_now, term_now, renewal = reply.rest
        return reply.outcome, Lead(host_now.decode(), int(term_now), int(renewal))

    async def survey(self, pool: str, *, schedules_max: int = 100) -> Survey:
        """What stands in the pool now. Lists so many restarts and time-outs at most."""
        reply = await self._guarded("survey", pool, schedules_max)
        counters, due, timeouts, listed = reply.rest
        found, unreadable = sorted_out(listed)
        return Survey(
            ts=reply.ts,
            seq=reply.seq,
            waiting=int(counters[0]),
            waiting_alone=int(counters[6]),
            reserved=counters[7].decode(),
            free=int(counters[1]),
            restarting=int(counters[2]),
            live=int(counters[3]),
            scaling=int(counters[4]),
            closed=counters[5].decode(),
            due=scored(due),
            timeouts=scored(timeouts),
            workers=found,
            unreadable=unreadable,
        )

    async def trim(self, pool: str, generation: int, archived_seq: int) -> Trimmed:
        """Let a piece of what is old leave Redis; of events only what the archive has.

        `generation`, `archived_seq`: how far the archive goes, 0 for events that must all stay.
        Raises as `commit` does. To be repeated while there is `more`.
        """
        kept = self.retention
        bounds = (kept.age_ms, kept.events, kept.heartbeats_ms, TRIMMED_AT_ONCE)
        reply = await self._guarded("trim", pool, generation, archived_seq, *bounds)
        events, others, more = reply.rest
        return Trimmed(int(events), int(others), bool(more))

    # ---- read, decide, commit ----------------------------------------------------------------

    async def act(
        self,
        pool: str,
        agent_id: str,
        command: Command,
        origin: Origin,
        *,
        fence: Fence | None = None,
        incarnation: int | None = None,
        created_seq: int | None = None,
        agent: Agent | None = None,
    ) -> Acted:
        """Carry out a command on an agent: read, decide, commit, and again on a conflict.

        `fence`: act as this worker. `incarnation`: only on that one, else FENCED. `created_seq`:
        only in that creation of the pool, else FENCED. `agent`: its state if it is at hand, which
        saves the first read. Raises `Busy` when it lost too often.
        """
        unknown: OutcomeUnknown | None = None
        for _ in range(ATTEMPTS):
            generation, _ = self.floor(pool)
            with still_unknown(unknown):
                agent = agent or await self.agent(pool, agent_id)
                if agent is None:
                    await self.whole(pool)
            if agent is None:
                return Acted(Outcome.ABSENT, None)
            if incarnation is not None and agent.incarnation != incarnation:
                return Acted(Outcome.ALREADY if unknown else Outcome.FENCED, agent)
            bodies = agent_commands.decide(command, agent)
            if not bodies:
                return Acted(Outcome.ALREADY, agent)
            step = self.step(pool, origin)
            if fence is not None:
                step.check("fenced" if fence.lost else "worker", fence.worker_id, fence.epoch)
            if created_seq is not None:
                step.check("life", created_seq)
            new = step.agent(agent_id, agent, bodies, fence=fence)
            try:
                with still_unknown(unknown):
                    reply = await self.commit(step, read_in=generation)
            except OutcomeUnknown as error:
                unknown, agent = error, None
                continue
            except Recovered:
                if not self.outlives:
                    raise
                agent = None
                continue
            if reply.outcome is Outcome.DONE:
                return Acted(Outcome.DONE, new, reply.seq, proof_of(step, reply))
            guarded = fence or incarnation is not None or created_seq is not None
            if reply.outcome is Outcome.FENCED and guarded:
                return Acted(Outcome.FENCED, agent)
            agent = None  # it moved on; whoever asked for no incarnation means the one it has now
        raise unknown or Busy(f"agent {agent_id} changes too fast")

    async def act_on_worker(
        self,
        pool: str,
        worker_id: str,
        command: WorkerCommand,
        origin: Origin,
        *,
        epoch: int = 0,
        prepare: Callable[[Step, Worker], None] | None = None,
    ) -> ActedOnWorker:
        """Carry out a command on a worker. `prepare` may add checks and writes to the step."""
        unknown: OutcomeUnknown | None = None
        for _ in range(ATTEMPTS):
            generation, _ = self.floor(pool)
            with still_unknown(unknown):
                found = await self.worker(pool, worker_id)
                if found is None:
                    await self.whole(pool)
            if found is None:
                return ActedOnWorker(Outcome.ABSENT, None)
            worker = found.worker
            bodies = workers.decide(command, worker)
            if not bodies:
                return ActedOnWorker(Outcome.ALREADY, worker)
            step = self.step(pool, origin)
            new = step.worker(worker_id, worker, bodies, epoch=epoch)
            if prepare is not None:
                prepare(step, worker)
            try:
                with still_unknown(unknown):
                    reply = await self.commit(step, read_in=generation)
            except OutcomeUnknown as error:
                unknown = error
                continue
            except Recovered:
                if not self.outlives:
                    raise
                continue
            if reply.outcome is Outcome.DONE:
                return ActedOnWorker(Outcome.DONE, new, reply.seq)
            if reply.outcome is Outcome.FENCED or prepare is not None:
                return ActedOnWorker(reply.outcome, worker)
        raise unknown or Busy(f"worker {worker_id} changes too fast")

    async def whole(self, pool: str) -> Stand:
        """Where a log stands that was not lost. Raises `LogMissing`, `Halted`, `RolledBack`."""
        floor = self.floor(pool)  # it may rise before the reply is here
        stand = await self.stand(pool)
        if not stand.generation:
            raise LogMissing(pool)
        if stand.halted:
            raise Halted(pool, stand.halted)
        if (stand.generation, stand.seq) < floor:
            raise RolledBack(pool, floor, (stand.generation, stand.seq))
        return stand

    # ---- plain reads -------------------------------------------------------------------------

    async def agent(self, pool: str, agent_id: str) -> Agent | None:
        """The write side's state of an agent; None once it has left Redis."""
        try:
            fields = await self._read(pool, "HGETALL", self.keys.agent(pool, agent_id))
        except WrongType as error:
            raise Unreadable("agent", agent_id, "its key is not a hash") from error
        return hashes.from_hash(agent_id, fields_of(fields)) if fields else None

    async def worker(self, pool: str, worker_id: str) -> Observed | None:
        fields = await self._read(pool, "HGETALL", self.keys.process(pool, worker_id))
        return observed(worker_id, fields_of(fields)) if len(fields) > 2 else None

    async def held(self, pool: str, worker_id: str) -> list[str]:
        """The ids of the agents in a worker's slots."""
        members = await self._read(pool, "SMEMBERS", self.keys.pool(pool, f"held:{worker_id}"))
        return sorted(member.decode() for member in members)

    async def live(self, pool: str) -> list[str]:
        """The ids of all agents that have not ended."""
        members = await self._read(pool, "SMEMBERS", self.keys.pool(pool, "agents"))
        return sorted(member.decode() for member in members)

    async def waiting_alone(
        self, pool: str, count: int, *, first: int = 0
    ) -> list[tuple[str, int]]:
        """The agents that wait for a worker of their own, and since when in ms of log time.

        Those that have waited longest come first. `first`: how many of those to pass over.
        """
        key = self.keys.pool(pool, "alone")
        last = first + count - 1
        flat = await self._read(pool, "ZRANGE", key, str(first), str(last), "WITHSCORES")
        return [
            (text_of(agent_id), int(float(score)))
            for agent_id, score in zip(flat[::2], flat[1::2], strict=True)
        ]


def proof_of(step: Step, reply: Reply) -> Proof:
    """What shows that a step which was DONE stands in the log."""
    if not step.events:
        return Proof(step.pool, "log", generation=reply.generation, seq=reply.seq)
    entry, event_id = reply.rest[0].decode(), step.events[-1].event_id
    return Proof(step.pool, "event", entry, event_id, reply.generation, reply.seq)
