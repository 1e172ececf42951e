"""The log: read a state, commit a step, claim work, renew a lease.

Retries are ours. A reply that never came is asked for again: a spawn by its operation id, every
other step by reading the state anew and deciding again (`act`), which comes to nothing if the
first attempt was written.
"""

from collections.abc import Callable

import structlog

from eventstore.connection.calls import AsyncClient
from eventstore.errors import (
    Halted,
    LogMissing,
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
from eventstore.log.commit_retry import Attempts
from eventstore.log.replies import (
    AgentResult,
    ClaimedAgent,
    Leadership,
    LogHead,
    Outcome,
    Proof,
    Reply,
    WorkerResult,
    fields_of,
    text_of,
)
from eventstore.log.script_runner import Argument, ScriptRunner
from eventstore.log.survey import (
    ObservedWorker,
    Survey,
    decode_scores,
    decode_worker,
    decode_workers,
)
from eventstore.retention import Retention, TrimResult
from eventstore.steps import clauses, hashes
from eventstore.steps.step import Fence, Origin, Step

log = structlog.get_logger("muster.log")


TRIM_BATCH = 5_000
"""About how many entries of a stream one step of trimming takes: a few milliseconds of Redis."""


class Log(ScriptRunner):
    """The write side of every pool."""

    def __init__(
        self,
        client: AsyncClient,
        keys: Keys,
        *,
        make_id: Callable[[], str] = new_id,
        survives_recovery: bool = True,
        retention: Retention | None = None,
    ) -> None:
        super().__init__(client, keys, survives_recovery=survives_recovery)
        self.retention = retention or Retention()
        self.new_id = make_id

    def step(self, pool: str, origin: Origin) -> Step:
        return Step(pool, self.new_id, origin, ended_ms=self.retention.ended_ms)

    # ---- scripts -----------------------------------------------------------------------------

    async def create_catalogue(self) -> Reply:
        """Create the catalogue if there is none: only for who knows that there never was one."""
        return await self.run_script("init", CATALOGUE, 0, 1)

    async def initialise(self, pool: str) -> None:
        """Create a pool's streams and group, once: a pool that had them before has lost its log.

        It begins in the catalogue's generation: where a catalogue was recovered without a pool,
        whoever knew that pool's log is told that this is a later one. Raises `LogMissing` where
        they are gone, or where the catalogue is.
        """
        field = f"made:{pool}"
        generation, initialised = await self._read(
            pool, "HMGET", self.keys.catalogue_meta, "generation", field
        )
        if generation is None:
            raise LogMissing(CATALOGUE)
        if initialised is not None:
            return
        await self.run_script("init", pool, 1, generation)
        step = self.step(CATALOGUE, Origin())
        step.write(clauses.SetMeta(field, 1))
        await self.commit(step)

    async def head(self, pool: str) -> LogHead:
        """Where a log stands, whether it may be written or not."""
        fields = LogHead.__struct_fields__
        return LogHead.of(await self._read(pool, "HMGET", self._meta_key(pool), *fields))

    async def claim(
        self,
        pool: str,
        fence: Fence,
        slots: int,
        *,
        include_unsettled: bool = False,
        isolation_limit: int = 1,
    ) -> tuple[Outcome, list[ClaimedAgent]]:
        """Claim up to `slots` spawns for a worker. `again`: also those told before, unsettled.

        `isolation_limit`: how many workers of the pool may run one isolated agent each.
        """
        ids = [self.new_id() for _ in range(slots)]
        unsettled_flag = "1" if include_unsettled else ""
        reply = await self._run_guarded(
            "claim", pool, fence.worker_id, fence.epoch, unsettled_flag, isolation_limit, *ids
        )
        entries, foreign = reply.rest[:2] if reply.outcome is Outcome.DONE else ((), ())
        for entry_id, reason, *content in foreign:
            log.error(
                "command.foreign",
                pool=pool,
                entry_id=text_of(entry_id),
                reason=text_of(reason),
                content=fields_of(content),
            )
        claimed = []
        for entry in entries:
            agent_id = entry[0].decode()
            try:
                agent = hashes.AGENT.from_hash(agent_id, fields_of(entry[2:]))
            except Unreadable as error:
                await self.park(pool, error, holder=fence.worker_id)
                continue
            claimed.append(ClaimedAgent(agent, entry[1]))
        return reply.outcome, claimed

    async def park(self, pool: str, error: Unreadable, *, holder: str = "") -> None:
        """Park an agent that cannot be read, once. `holder`: the worker whose slot it has."""
        reply = await self._run_guarded("park", pool, error.subject, error.reason, holder)
        if reply.rest[0]:
            log.error("log.parked", pool=pool, agent_id=error.subject, reason=error.reason)

    async def allocate_epoch(self, pool: str) -> int:
        """The next epoch of the pool."""
        reply = await self._run_guarded("draw", pool)
        return int(reply.rest[0])

    async def lead(
        self, pool: str, host: str, term: int, stale: Leadership | None = None
    ) -> tuple[Outcome, Leadership]:
        """Take, keep or observe the lead; `stale` is a leader seen to stand still for a lease."""
        expected: tuple[Argument, Argument] = (stale.term, stale.renewal) if stale else ("", "")
        reply = await self._run_guarded("lead", pool, host, term, *expected)
        host_now, term_now, renewal = reply.rest
        return reply.outcome, Leadership(host_now.decode(), int(term_now), int(renewal))

    async def survey(self, pool: str, *, schedules_max: int = 100) -> Survey:
        """What stands in the pool now. Lists so many restarts and time-outs at most."""
        reply = await self._run_guarded("survey", pool, schedules_max)
        counters, due, timeouts, listed = reply.rest
        found, unreadable = decode_workers(listed)
        return Survey(
            ts=reply.ts,
            seq=reply.seq,
            waiting=int(counters[0]),
            waiting_isolated=int(counters[6]),
            free=int(counters[1]),
            restarting=int(counters[2]),
            live=int(counters[3]),
            scaling=int(counters[4]),
            closed=counters[5].decode(),
            due=decode_scores(due),
            timeouts=decode_scores(timeouts),
            workers=found,
            unreadable=unreadable,
        )

    async def trim(self, pool: str, generation: int, archived_seq: int) -> TrimResult:
        """Let a piece of what is old leave Redis; of events only what the archive has.

        `generation`, `archived_seq`: how far the archive goes, 0 for events that must all stay.
        Raises as `commit` does. To be repeated while there is `more`.
        """
        retention = self.retention
        bounds = (retention.age_ms, retention.events, retention.heartbeats_ms, TRIM_BATCH)
        reply = await self._run_guarded("trim", pool, generation, archived_seq, *bounds)
        events, others, more = reply.rest
        return TrimResult(int(events), int(others), bool(more))

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
    ) -> AgentResult:
        """Carry out a command on an agent: read, decide, commit, and again on a conflict.

        `fence`: act as this worker. `incarnation`: only on that one, else FENCED. `created_seq`:
        only in that creation of the pool, else FENCED. `agent`: its state if it is known, which
        saves the first read. Raises `Busy` when it lost too often.
        """
        attempts = Attempts(self, pool, f"agent {agent_id}")
        while True:
            agent = agent or await attempts.read(self._agent_of_intact(pool, agent_id))
            if agent is None:
                return AgentResult(Outcome.ABSENT, None)
            if incarnation is not None and agent.incarnation != incarnation:
                outcome = Outcome.ALREADY if attempts.unknown else Outcome.FENCED
                return AgentResult(outcome, agent)
            bodies = agent_commands.decide(command, agent)
            if not bodies:
                return AgentResult(Outcome.ALREADY, agent)
            step = self.step(pool, origin)
            if fence is not None:
                step.check(clauses.WorkerActs(fence.worker_id, fence.epoch, fence.lost))
            if created_seq is not None:
                step.check(clauses.PoolIs(created_seq, takes_spawns=False))
            new = step.agent(agent_id, agent, bodies, fence=fence)
            reply = await attempts.commit(step)
            if reply and reply.outcome is Outcome.DONE:
                return AgentResult(Outcome.DONE, new, reply.seq, proof_of(step, reply))
            may_be_fenced = fence or incarnation is not None or created_seq is not None
            if reply and reply.outcome is Outcome.FENCED and may_be_fenced:
                return AgentResult(Outcome.FENCED, agent)
            agent = None  # it moved on: without `incarnation` the one that it has now is meant

    async def act_on_worker(
        self,
        pool: str,
        worker_id: str,
        command: WorkerCommand,
        origin: Origin,
        *,
        epoch: int = 0,
        prepare: Callable[[Step, Worker], None] | None = None,
    ) -> WorkerResult:
        """Carry out a command on a worker. `prepare` may add checks and writes to the step."""
        attempts = Attempts(self, pool, f"worker {worker_id}")
        while True:
            worker = await attempts.read(self._worker_of_intact(pool, worker_id))
            if worker is None:
                return WorkerResult(Outcome.ABSENT, None)
            bodies = workers.decide(command, worker)
            if not bodies:
                return WorkerResult(Outcome.ALREADY, worker)
            step = self.step(pool, origin)
            new = step.worker(worker_id, worker, bodies, epoch=epoch)
            if prepare is not None:
                prepare(step, worker)
            reply = await attempts.commit(step)
            if reply and reply.outcome is Outcome.DONE:
                return WorkerResult(Outcome.DONE, new, reply.seq)
            if reply and (reply.outcome is Outcome.FENCED or prepare is not None):
                return WorkerResult(reply.outcome, worker)

    async def _agent_of_intact(self, pool: str, agent_id: str) -> Agent | None:
        """None where it has left Redis; raises where its log was lost."""
        agent = await self.agent(pool, agent_id)
        if agent is None:
            await self.require_intact(pool)
        return agent

    async def _worker_of_intact(self, pool: str, worker_id: str) -> Worker | None:
        found = await self.worker(pool, worker_id)
        if found is None:
            await self.require_intact(pool)
        return found.worker if found else None

    async def require_intact(self, pool: str) -> LogHead:
        """Where a log stands that was not lost. Raises `LogMissing`, `Halted`, `RolledBack`."""
        mark = self.high_water_mark(pool)  # it may rise before the reply is here
        head = await self.head(pool)
        if not head.generation:
            raise LogMissing(pool)
        if head.halted:
            raise Halted(pool, head.halted)
        if (head.generation, head.seq) < mark:
            raise RolledBack(pool, mark, (head.generation, head.seq))
        return head

    # ---- plain reads -------------------------------------------------------------------------

    async def agent(self, pool: str, agent_id: str) -> Agent | None:
        """The write side's state of an agent; None once it has left Redis."""
        try:
            fields = await self._read(pool, "HGETALL", self.keys.agent(pool, agent_id))
        except WrongType as error:
            raise Unreadable("agent", agent_id, "its key is not a hash") from error
        return hashes.AGENT.from_hash(agent_id, fields_of(fields)) if fields else None

    async def worker(self, pool: str, worker_id: str) -> ObservedWorker | None:
        fields = await self._read(pool, "HGETALL", self.keys.process(pool, worker_id))
        return decode_worker(worker_id, fields_of(fields)) if len(fields) > 2 else None

    async def held(self, pool: str, worker_id: str) -> list[str]:
        """The ids of the agents in a worker's slots."""
        members = await self._read(pool, "SMEMBERS", self.keys.pool(pool, f"held:{worker_id}"))
        return sorted(member.decode() for member in members)

    async def live(self, pool: str) -> list[str]:
        """The ids of all agents that have not ended."""
        members = await self._read(pool, "SMEMBERS", self.keys.pool(pool, "agents"))
        return sorted(member.decode() for member in members)

    async def waiting_isolated(self, pool: str, count: int) -> list[tuple[str, int]]:
        """The agents that wait for a worker of their own, and since when in ms of log time.

        Those that have waited longest come first.
        """
        key = self.keys.pool(pool, "alone")
        flat = await self._read(pool, "ZRANGE", key, "0", str(count - 1), "WITHSCORES")
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
