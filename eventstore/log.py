"""The log: read a state, commit a step, claim work, renew a lease.

One `Log` serves all pools through one connection pool. It remembers, per log, the floor: the
generation and the highest `seq` that this process has acknowledged or seen archived. Every script
is given the floor; a log that is below it raises `RolledBack` and is halted, for everybody, until
it was recovered. A log of a later generation raises `Recovered` once: what was read before is void.

Retries are ours. A reply that never came is asked for again: a spawn by its operation id, every
other step by reading the state anew and deciding again (`act`), which comes to nothing if the
first attempt was written.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ResponseError

from eventstore import agent as agents
from eventstore import agent_hash
from eventstore import worker as workers
from eventstore.agent import Agent, Command
from eventstore.connection import (
    UNREACHABLE,
    Absent,
    AsyncClient,
    execute,
    passing,
    send,
    shielded,
    unreachable,
)
from eventstore.durability import Proof
from eventstore.errors import (
    Busy,
    Halted,
    LayoutTooNew,
    LogError,
    LogMissing,
    LogUnreachable,
    MemoryExhausted,
    NotEnoughReplicas,
    OutcomeUnknown,
    Recovered,
    RolledBack,
    Unreadable,
)
from eventstore.ids import new_id
from eventstore.keys import Keys
from eventstore.outcomes import (
    Acted,
    ActedOnWorker,
    Claimed,
    Lead,
    Observed,
    Outcome,
    Reply,
    Stand,
    Survey,
    fields_of,
    observed,
    scored,
    sorted_out,
    text_of,
)
from eventstore.retention import Retention, Trimmed
from eventstore.scripting import Script, script
from eventstore.step import Argument, Fence, Origin, Step
from eventstore.worker import Worker, WorkerCommand

log = structlog.get_logger("muster.log")

ATTEMPTS = 8
"""How often a step is decided anew when others were faster."""
TRIMMED_AT_ONCE = 5_000
"""About how many entries of a stream one step of trimming takes: a few milliseconds of Redis."""


class NotAHash(LogError):
    """A key is of another type than it must be."""


class Log:
    """The write side of every pool.

    `outlives`: whether its owner may go on in a log that was recovered. A worker may not: what it
    holds is no longer its own.
    """

    def __init__(
        self,
        client: AsyncClient,
        keys: Keys,
        *,
        make_id: Callable[[], str] = new_id,
        outlives: bool = True,
        retention: Retention | None = None,
    ) -> None:
        self.client = client
        self.keys = keys
        self.retention = retention or Retention()
        self.new_id = make_id
        self.outlives = outlives
        self._floors: dict[str, tuple[int, int]] = {}
        self._acknowledged: dict[str, tuple[int, int]] = {}
        self._clock = (0, 0.0)

    # ---- the log's own time and position -----------------------------------------------------

    def now_ms(self) -> int:
        """Log time: that of the last reply, carried on by this host's monotonic clock."""
        ts, at = self._clock
        return ts + int((time.monotonic() - at) * 1000) if ts else time.time_ns() // 1_000_000

    def floor(self, pool: str) -> tuple[int, int]:
        """(generation, seq) below which the pool's log must not be found; (0, 0) if unknown."""
        return self._floors.get(self._meta(pool), (0, 0))

    def raise_floor(self, pool: str, generation: int, seq: int) -> None:
        """Remember that this much was acknowledged or archived."""
        meta = self._meta(pool)
        self._floors[meta] = max(self._floors.get(meta, (0, 0)), (generation, seq))

    def acknowledged(self, pool: str) -> tuple[int, int]:
        """(generation, seq) of the highest that this process was told or told others of."""
        return self._acknowledged.get(self._meta(pool), (0, 0))

    def acknowledge(self, pool: str, generation: int, seq: int) -> None:
        """Remember that this much was told to somebody; it raises the floor too."""
        meta = self._meta(pool)
        self._acknowledged[meta] = max(self._acknowledged.get(meta, (0, 0)), (generation, seq))
        self.raise_floor(pool, generation, seq)

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
                agent = agent_hash.from_hash(agent_id, fields_of(entry[2:]))
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
                    await self._demand_whole(pool)
            if agent is None:
                return Acted(Outcome.ABSENT, None)
            if incarnation is not None and agent.incarnation != incarnation:
                return Acted(Outcome.ALREADY if unknown else Outcome.FENCED, agent)
            bodies = agents.decide(command, agent)
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
                    await self._demand_whole(pool)
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

    async def _demand_whole(self, pool: str) -> None:
        """Where something is not found: is that the truth, or is the log lost?"""
        stand, floor = await self.stand(pool), self.floor(pool)
        if not stand.generation:
            raise LogMissing(pool)
        if stand.halted:
            raise Halted(pool, stand.halted)
        if (stand.generation, stand.seq) < floor:
            raise RolledBack(pool, floor, (stand.generation, stand.seq))

    # ---- plain reads -------------------------------------------------------------------------

    async def agent(self, pool: str, agent_id: str) -> Agent | None:
        """The write side's state of an agent; None once it has left Redis."""
        try:
            fields = await self._read(pool, "HGETALL", self.keys.agent(pool, agent_id))
        except NotAHash as error:
            raise Unreadable("agent", agent_id, "its key is not a hash") from error
        return agent_hash.from_hash(agent_id, fields_of(fields)) if fields else None

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

    async def _read(self, pool: str, *command: str) -> Sequence[Any]:
        try:
            reply: Sequence[Any] = await execute(self.client, *command)
        except UNREACHABLE as error:
            raise unreachable(error) from error
        except ResponseError as error:
            if passing(error):
                raise LogUnreachable(f"Redis is not ready: {error}") from error
            kind = NotAHash if str(error).startswith("WRONGTYPE") else LogError
            raise kind(f"pool {pool!r}: {command[0]} failed: {error}") from error
        return reply

    # ---- running a script --------------------------------------------------------------------

    def _meta(self, pool: str) -> str:
        return self.keys.catalogue_meta if pool == CATALOGUE else self.keys.pool(pool, "meta")

    def _events(self, pool: str) -> str:
        return self.keys.catalogue if pool == CATALOGUE else self.keys.pool(pool, "events")

    def script_keys(self, pool: str) -> tuple[str, str]:
        """The keys that every script of this log declares."""
        return self._meta(pool), self._events(pool)

    async def _guarded(self, name: str, pool: str, *arguments: Argument) -> Reply:
        return await self.run(name, pool, *self.floor(pool), *arguments)

    async def run(self, name: str, pool: str, *arguments: Argument) -> Reply:
        """Run a script on a log, with just these arguments."""
        keys = self.script_keys(pool)
        try:
            raw = await shielded(lambda: self._evaluate(script(name), keys, arguments))
        except UNREACHABLE as error:
            if _never_sent(error):
                raise unreachable(error) from error
            raise OutcomeUnknown(f"Redis did not answer: {error}") from error
        except OutOfMemoryError as error:
            raise MemoryExhausted from error
        except ResponseError as error:
            if str(error).startswith("NOREPLICAS"):
                raise NotEnoughReplicas from error
            if passing(error):
                raise LogUnreachable(f"Redis is not ready: {error}") from error
            raise LogError(f"pool {pool!r}: script {name} failed: {error}") from error
        return judge(pool, raw, self)

    async def _evaluate(
        self, source: "Script", keys: tuple[str, str], arguments: Sequence[Argument]
    ) -> list[Any]:
        try:
            raw = await send(self.client, "EVALSHA", source.digest, 2, *keys, *arguments)
        except NoScriptError:
            raw = await send(self.client, "EVAL", source.text, 2, *keys, *arguments)
        reply: list[Any] = raw
        return reply

    def saw(self, pool: str, generation: int, seq: int, ts: int) -> None:
        """Take note of where a log stands after a reply that acknowledged something."""
        self.acknowledge(pool, generation, seq)
        if ts:
            self._clock = (ts, time.monotonic())


def judge(pool: str, raw: Sequence[Any], log: Log) -> Reply:
    """Turn a script's reply into a `Reply`, noting the log's position; raises on a damaged log."""
    status = raw[0].decode()
    generation, seq, ts = int(raw[1]), int(raw[2]), int(raw[3])
    if status == "MISSING":
        raise LogMissing(pool)
    if status == "HALTED":
        raise Halted(pool, raw[4].decode())
    if status == "LAYOUT":
        raise LayoutTooNew(pool, *(value.decode() for value in raw[4:6]))
    if status == "ROLLED_BACK":
        raise RolledBack(pool, log.floor(pool), (generation, seq))
    if status == "RECOVERED":
        if log.outlives:
            log.saw(pool, generation, seq, ts)
        raise Recovered(pool, generation)
    log.saw(pool, generation, seq, ts)
    outcome = Outcome.DONE if status == "OK" else Outcome(status)
    return Reply(outcome, generation, seq, ts, raw[4:])


def proof_of(step: Step, reply: Reply) -> Proof:
    """What shows that a step which was DONE stands in the log."""
    if not step.events:
        return Proof(step.pool, "log", generation=reply.generation, seq=reply.seq)
    entry, event_id = reply.rest[0].decode(), step.events[-1].event_id
    return Proof(step.pool, "event", entry, event_id, reply.generation, reply.seq)


CATALOGUE = ""
"""In place of a pool's name: the catalogue."""


@contextmanager
def still_unknown(unknown: OutcomeUnknown | None) -> Iterator[None]:
    """What an earlier attempt left unknown stays so, also where Redis is away or refuses by now."""
    try:
        yield
    except LogError as error:
        if unknown is None or isinstance(error, OutcomeUnknown | Recovered):
            raise
        raise unknown from error


def _never_sent(error: BaseException) -> bool:
    """Whether a connection error came before anything could reach the server."""
    if isinstance(error, BusyLoadingError | Absent):
        return True
    text = str(error)
    return text.startswith(("Error ", "Timeout connecting", "No connection available")) and (
        "while reading" not in text.lower() and "while writing" not in text.lower()
    )
