"""The log: read a state, commit a step, claim work, renew a lease.

The Redis client never retries by itself. If no reply comes, a spawn is repeated under its operation
id; for every other step the state is read and decided on again (`act`), which leads to nothing if
the first attempt was written.
"""

from collections.abc import Awaitable, Sequence

import msgspec
import structlog

from eventstore.connection.calls import AsyncClient
from eventstore.connection.reply_parser import Argument
from eventstore.errors import LogMissing, Unreadable
from eventstore.ids import new_id
from eventstore.keys import CATALOGUE, Keys
from eventstore.language import agent_commands, workers
from eventstore.language.agent_commands import Command
from eventstore.language.agents import Agent
from eventstore.language.catalogue import Catalogue, encode_snapshot
from eventstore.language.workers import WorkerCommand
from eventstore.log import replies
from eventstore.log.commit_retry import Attempts, T
from eventstore.log.queries import LogQueries
from eventstore.log.replies import Outcome, Proof, Reply, fields_of, text_of
from eventstore.retention import Retention, TrimResult
from eventstore.steps import clauses, hashes
from eventstore.steps.step import Fence, Origin, Step

log = structlog.get_logger("muster.log")

TRIM_BATCH = 5_000
"""About how many entries of a stream one trim step removes: a few milliseconds of Redis."""


class Log(LogQueries):
    """The write side of every pool."""

    def __init__(
        self,
        client: AsyncClient,
        keys: Keys,
        *,
        survives_recovery: bool = True,
        retention: Retention | None = None,
    ) -> None:
        super().__init__(client, keys, survives_recovery=survives_recovery)
        self.retention = retention or Retention()
        self.new_id = new_id

    def step(self, pool: str, origin: Origin) -> Step:
        return Step(pool, self.new_id, origin, ended_ms=self.retention.ended_ms)

    # ---- scripts -----------------------------------------------------------------------------

    async def create_catalogue(self) -> Reply:
        """Create the catalogue if there is none. To be called only where there never was one."""
        return await self.run_script("init", CATALOGUE, 1)

    async def initialise(self, pool: str) -> None:
        """Create a pool's streams and group once: if they existed before, the log was lost.

        A log starts with the catalogue's generation, so that a new log is a later one after the
        catalogue was recovered without the pool. One of a name that was removed continues the
        earlier log. Raises `LogMissing` if the streams or the
        catalogue were lost.
        """
        field = f"made:{pool}"
        generation, initialised, retired = await self._read_meta(
            CATALOGUE, "generation", field, f"retired:{pool}"
        )
        if generation is None:
            raise LogMissing(CATALOGUE)
        if initialised is not None:
            return
        last = retired_fields(retired)
        flat = [text for pair in last.items() for text in pair]
        await self.run_script("init", pool, last.get("generation", generation), *flat)
        step = self.step(CATALOGUE, Origin())
        step.write(clauses.SetMeta(field, 1))
        await self.commit(step)

    async def retired_at(self, pool: str) -> tuple[str, int]:
        """After which id and seq the log of a name continues that was removed; `0-0`, 0: of none.

        The id is between that of its last event and that of the next one.
        """
        last = retired_fields((await self._read_meta(CATALOGUE, f"retired:{pool}"))[0])
        return f"{int(last.get('ts', 1)) - 1}-0", int(last.get("seq", 0))

    async def claim(
        self,
        pool: str,
        fence: Fence,
        slots: int,
        *,
        include_held: bool = False,
        isolation_limit: int = 1,
        starts: str = "",
    ) -> tuple[Outcome, list[replies.ClaimedAgent]]:
        """Claim up to `slots` spawns for a worker.

        `include_held`: also those that are in its slots (a reply was lost). `isolation_limit`: how
        many workers of the pool may run one isolated agent each. `starts`: the role whose agents
        have nothing to do before they run: they are started in the same step.
        """
        flag = "1" if include_held else ""
        arguments = (fence.epoch, flag, isolation_limit, starts, slots, self.new_id())
        reply = await self._run_guarded("claim", pool, fence.worker_id, *arguments)
        entries, foreign = reply.rest[:2] if reply.outcome is Outcome.DONE else ((), ())
        for entry_id, reason, *content in foreign:
            found = {"entry_id": text_of(entry_id), "reason": text_of(reason)}
            log.error("command.foreign", pool=pool, **found, content=fields_of(content))
        claimed = []
        for raw_id, spec, stored, changes in entries:
            agent_id = raw_id.decode()
            try:
                agent = hashes.AGENT.from_flat(agent_id, [*stored, *changes], checked=True)
            except Unreadable as error:
                await self.park(pool, error, holder=fence.worker_id)
                continue
            claimed.append(replies.ClaimedAgent(agent, spec))
        return reply.outcome, claimed

    async def park(self, pool: str, error: Unreadable, *, holder: str = "") -> None:
        """Park an agent that cannot be read, unless it is parked. `holder`: whose slot it has."""
        reply = await self._run_guarded("park", pool, error.subject, error.reason, holder)
        if reply.rest[0]:
            log.error("log.parked", pool=pool, agent_id=error.subject, reason=error.reason)

    async def allocate_epoch(self, pool: str) -> int:
        """Allocate the next epoch of the pool."""
        reply = await self._run_guarded("draw", pool)
        return int(reply.rest[0])

    async def lead(
        self, pool: str, host: str, term: int, stale: replies.Leadership | None = None
    ) -> tuple[Outcome, replies.Leadership]:
        """Acquire, renew or read the lead. `stale`: a leader that did not renew for a lease."""
        expected: tuple[Argument, Argument] = (stale.term, stale.renewal) if stale else ("", "")
        reply = await self._run_guarded("lead", pool, host, term, *expected)
        host_now, term_now, renewal = reply.rest
        return reply.outcome, replies.Leadership(host_now.decode(), int(term_now), int(renewal))

    async def trim_catalogue(self, generation: int, snapshot: Catalogue) -> TrimResult:
        """Store a snapshot at the end of the archive, and remove the oldest entries below it."""
        events_max, stored = self.retention.catalogue_events, encode_snapshot(snapshot)
        return await self._trim(CATALOGUE, generation, snapshot.seq, events_max, stored)

    async def trim(self, pool: str, generation: int, archived_seq: int) -> TrimResult:
        """Remove a bounded number of old entries from Redis; of events only archived ones.

        `generation`, `archived_seq`: the end of the archive; 0 removes no events. Raises as
        `commit` does. To be repeated while there is `more`.
        """
        return await self._trim(pool, generation, archived_seq, self.retention.events)

    async def _trim(
        self, pool: str, generation: int, seq: int, events_max: int, *snapshot: bytes
    ) -> TrimResult:
        bounds = (self.retention.age_ms, events_max, self.retention.heartbeats_ms, TRIM_BATCH)
        reply = await self._run_guarded("trim", pool, generation, seq, *bounds, *snapshot)
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
        state: bytes | None = None,
        adds_load: bool = False,
    ) -> replies.AgentResult:
        """Carry out a command on an agent: read, decide, commit, and repeat on a conflict.

        `fence`: act as this worker. `incarnation`: only on this one, else FENCED. `created_seq`:
        only in this creation of the pool, else FENCED. `agent`: its state if it is known, which
        saves the first read. `state`: what it saved, to be stored. `adds_load`: raise
        `MemoryExhausted` near Redis' memory limit. Raises `Busy` after too many conflicts.
        """
        attempts = Attempts(self, pool, f"agent {agent_id}")
        while True:
            agent = agent or await attempts.read(
                lambda: self._intact(pool, self.agent(pool, agent_id))
            )
            if agent is None:
                return replies.AgentResult(Outcome.ABSENT, None)
            if incarnation is not None and agent.incarnation != incarnation:
                outcome = Outcome.ALREADY if attempts.unknown else Outcome.FENCED
                return replies.AgentResult(outcome, agent)
            bodies = agent_commands.decide(command, agent)
            if not bodies:
                return replies.AgentResult(Outcome.ALREADY, agent)
            step = self.step(pool, origin)
            if fence is not None:
                step.check(clauses.WorkerActs(fence.worker_id, fence.epoch, fence.lost))
            if created_seq is not None:
                step.check(clauses.PoolIs(created_seq, takes_spawns=False))
            new = step.agent(agent_id, agent, bodies, fence=fence, state=state)
            reply = await attempts.commit(step, adds_load=adds_load)
            if reply and reply.outcome is Outcome.DONE:
                return replies.AgentResult(Outcome.DONE, new, proof_of(step, reply))
            may_be_fenced = fence or incarnation is not None or created_seq is not None
            if reply and reply.outcome is Outcome.FENCED and may_be_fenced:
                return replies.AgentResult(Outcome.FENCED, agent)
            agent = None  # it changed: without `incarnation` the command is for the current one

    async def act_on_worker(
        self,
        pool: str,
        worker_id: str,
        command: WorkerCommand,
        origin: Origin,
        *,
        epoch: int = 0,
        checks: Sequence[clauses.Check] = (),
        worker: workers.Worker | None = None,
    ) -> replies.WorkerResult:
        """Carry out a command on a worker. With `checks`, a conflict is returned.

        `worker`: its state if it is known, as for `act`.
        """
        attempts = Attempts(self, pool, f"worker {worker_id}")
        while True:
            if worker is None:
                found = await attempts.read(
                    lambda: self._intact(pool, self.worker(pool, worker_id))
                )
                if found is None:
                    return replies.WorkerResult(Outcome.ABSENT, None)
                worker = found.worker
            bodies = workers.decide(command, worker)
            if not bodies:
                return replies.WorkerResult(Outcome.ALREADY, worker)
            step = self.step(pool, origin)
            new = step.worker(worker_id, worker, bodies, epoch=epoch)
            step.check(*checks)
            reply = await attempts.commit(step)
            if reply and reply.outcome is Outcome.DONE:
                return replies.WorkerResult(Outcome.DONE, new)
            if reply and (reply.outcome is Outcome.FENCED or checks):
                return replies.WorkerResult(reply.outcome, worker)
            worker = None

    async def _intact(self, pool: str, read: Awaitable[T | None]) -> T | None:
        """What was read; None if it was removed from Redis. Raises if its log was lost."""
        found = await read
        if found is None:
            await self.require_intact(pool)
        return found


def encode_retired(fields: dict[str, str]) -> str:
    return msgspec.json.encode(fields).decode()


def retired_fields(stored: bytes | None) -> dict[str, str]:
    return msgspec.json.decode(stored, type=dict[str, str]) if stored else {}


def proof_of(step: Step, reply: Reply) -> Proof:
    """Identifies what a step that was DONE has written, so that it can be verified."""
    if not step.events:
        return Proof(step.pool, "log", generation=reply.generation, seq=reply.seq)
    entry, event_id = reply.rest[0].decode(), step.events[-1].event_id
    return Proof(step.pool, "event", entry, event_id, reply.generation, reply.seq)
