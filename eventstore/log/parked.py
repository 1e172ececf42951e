"""What was parked: read, put back, or given up.

A thing that cannot be processed is put aside by a script, once, with the reason and what stood
there (`lua/prelude.lua`). Here an operator's decision is carried out. What Redis holds of an
agent or a worker is only a fold of its events, so what is damaged is made anew from another fold of
them: the caller gives the state that the views tell.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from redis.exceptions import ResponseError

from eventstore.connection.calls import UNREACHABLE, execute, refusal, unreachable
from eventstore.errors import LogError, Unreadable
from eventstore.language import agent_commands, workers
from eventstore.language.agents import Agent
from eventstore.language.workers import Worker, WorkerStatus
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.steps import hashes
from eventstore.steps.step import Fence, Origin, Step


class ParkedRecord(Struct, frozen=True, kw_only=True):
    """A parked thing as it stands in Redis."""

    source: str
    """`agent`, `worker`, `command` or `heartbeat`."""
    subject: str
    reason: str
    at_ms: int
    content: tuple[str, ...] = ()


class ParkedEntry(Struct, frozen=True, kw_only=True):
    """Something that could not be processed, in one pool."""

    pool: str
    key: str
    """Its name within the pool."""
    source: str
    subject: str
    reason: str
    at_ms: int
    content: dict[str, str]
    """What stood there, by field."""

    @property
    def id(self) -> str:
        return f"{self.pool}:{self.key}"


async def read(log: Log, pool: str) -> list[ParkedEntry]:
    """What is parked in a pool, the oldest first."""
    raw = await _ask(log, "HGETALL", log.keys.pool(pool, "parked"))
    pairs = raw.items() if isinstance(raw, Mapping) else zip(raw[::2], raw[1::2], strict=True)
    found = [decode_record(pool, key, value) for key, value in pairs]
    return sorted(found, key=lambda one: (one.at_ms, one.key))


async def find(log: Log, pool: str, key: str) -> ParkedEntry | None:
    raw = await _ask(log, "HGET", log.keys.pool(pool, "parked"), key)
    return decode_record(pool, key.encode(), raw) if raw else None


async def count(log: Log, pool: str) -> int:
    return int(await _ask(log, "HLEN", log.keys.pool(pool, "parked")))


def decode_record(pool: str, key: bytes, raw: bytes) -> ParkedEntry:
    record = msgspec.json.decode(raw, type=ParkedRecord)
    content = [_unescape(text) for text in record.content]
    if len(content) == 1:
        content = ["data", *content]
    return ParkedEntry(
        pool=pool,
        key=key.decode(),
        source=record.source,
        subject=_unescape(record.subject),
        reason=_unescape(record.reason),
        at_ms=record.at_ms,
        content=dict(zip(content[::2], content[1::2], strict=False)),
    )


def _unescape(text: str) -> str:
    """Bytes stand in a record as the letters of their numbers; here as the text that they are."""
    return text.encode("latin-1").decode(errors="backslashreplace")


async def _ask(log: Log, *command: str) -> Any:
    try:
        return await execute(log.client, *command)
    except UNREACHABLE as error:
        raise unreachable(error) from error
    except ResponseError as error:
        raise refusal(f"{command[0]} failed", error) from error


async def retry_agent(
    log: Log, entry: ParkedEntry, from_views: Agent | None, origin: Origin
) -> bool:
    """Put an agent back where its state says it belongs. `told`: as its events tell.

    False when something changed meanwhile. Raises `Unreadable` where neither can be read.
    """
    step, agent, needs_repair = await _agent_step(log, entry, from_views, origin)
    if agent is not None and needs_repair:
        _repair_agent(step, agent)
    if agent is not None and not agent.ended:
        if agent.held and agent.agent_id in await log.held(entry.pool, agent.worker_id):
            pass  # its worker runs it still, and does not mind
        elif agent.held:
            command = agent_commands.MarkLost(
                worker_id=agent.worker_id, reason=entry.reason, now_ms=log.now_ms(entry.pool)
            )
            bodies, fence = agent_commands.decide(command, agent), await _fence(log, agent)
            step.agent(agent.agent_id, agent, bodies, fence=fence, checked=not needs_repair)
        else:
            step.write("unqueue", agent.agent_id)
            step.enqueue(agent)
    return await _commit(log, step)


async def drop_agent(
    log: Log, entry: ParkedEntry, from_views: Agent | None, origin: Origin
) -> bool:
    """End an agent for good; one that its worker still runs is told to end at once."""
    step, agent, needs_repair = await _agent_step(log, entry, from_views, origin)
    if agent is not None and needs_repair:
        _repair_agent(step, agent)
    if agent is not None and not agent.ended:
        is_running = agent.held and agent.agent_id in await log.held(entry.pool, agent.worker_id)
        command: agent_commands.Command = agent_commands.Drop()
        if is_running:
            command = agent_commands.Terminate(reason="dropped", graceful=False)
        bodies = agent_commands.decide(command, agent)
        if bodies:
            fence = None if is_running else await _fence(log, agent)
            step.agent(agent.agent_id, agent, bodies, fence=fence, checked=not needs_repair)
    return await _commit(log, step)


async def _fence(log: Log, agent: Agent) -> Fence | None:
    """The epoch under which the agent's worker was declared lost, if it is still known."""
    found = await log.worker(agent.pool_name, agent.worker_id) if agent.held else None
    if found is None or found.worker.alive:
        return None
    return Fence(agent.worker_id, found.worker.epoch, lost=True)


async def _agent_step(
    log: Log, entry: ParkedEntry, from_views: Agent | None, origin: Origin
) -> tuple[Step, Agent | None, bool]:
    """A step that needs it parked; the agent, and whether its hash is to be made anew."""
    step = log.step(entry.pool, origin)
    step.check("parked", entry.key)
    step.write("unpark", entry.key)
    try:
        stored = await log.agent(entry.pool, entry.subject)
    except Unreadable:
        if from_views is None:
            raise
        return step, from_views, True
    if stored is not None:
        step.check("agent", stored.agent_id, stored.version, stored.incarnation)
        return step, stored, False
    return step, from_views, from_views is not None and not from_views.ended


def _repair_agent(step: Step, agent: Agent) -> None:
    step.write("mend_agent", agent.agent_id)
    fields = hashes.AGENT.to_flat(agent)
    step.write("agent", agent.agent_id, len(fields) // 2, *fields)
    if agent.ended:
        step.write("ended", agent.agent_id, 1)
    else:
        step.write("live", agent.agent_id)
        step.store_spec(agent.agent_id, agent)


async def retry_worker(
    log: Log, entry: ParkedEntry, from_views: Worker | None, origin: Origin
) -> bool:
    """Make a worker's hash anew from its events. Raises `Unreadable` where they tell nothing."""
    step = log.step(entry.pool, origin)
    step.check("parked", entry.key)
    step.write("unpark", entry.key)
    if from_views is None:
        raise Unreadable("worker", entry.subject, "the views do not know it; drop it")
    if from_views.status is WorkerStatus.STOPPED:
        return await _forget_worker(log, entry, origin)
    try:
        stored = await log.worker(entry.pool, entry.subject)
    except (Unreadable, LogError):
        stored = None
    if stored is None:
        fields = hashes.WORKER.to_flat(from_views)
        step.write("mend_process", entry.subject)
        step.write("process", entry.subject, len(fields) // 2, *fields)
        step.write("recount", entry.subject)
    elif stored.worker.alive:
        step.check("process", entry.subject, stored.worker.version)
        step.write("enlist", entry.subject)
    return await _commit(log, step)


async def drop_worker(
    log: Log, entry: ParkedEntry, from_views: Worker | None, origin: Origin
) -> bool:
    """Take a worker for lost: what it holds is started elsewhere. A mere name is forgotten."""
    if from_views is None:
        return await _forget_worker(log, entry, origin)
    if not await retry_worker(log, entry, from_views, origin):
        return False
    epoch = await log.allocate_epoch(entry.pool)
    fence = workers.DeclareLost(reason="dropped")
    await log.act_on_worker(entry.pool, entry.subject, fence, origin, epoch=epoch)
    return True


async def _forget_worker(log: Log, entry: ParkedEntry, origin: Origin) -> bool:
    """Take a name off all lists that is no worker's, or one's that left in good order."""
    step = log.step(entry.pool, origin)
    step.check("parked", entry.key)
    step.check("empty", entry.subject)
    step.check("settled", entry.subject)
    for clause in ("delist", "unorder", "unpark"):
        step.write(clause, entry.key if clause == "unpark" else entry.subject)
    step.write("forget", entry.subject, 1)
    return await _commit(log, step)


async def retry_other(log: Log, entry: ParkedEntry, origin: Origin) -> bool:
    """Put a command back into the queue, as it stood; of a heartbeat the next one has come."""
    step = log.step(entry.pool, origin)
    step.check("parked", entry.key)
    if entry.source == "command":
        step.write("resubmit", entry.key)
    step.write("unpark", entry.key)
    return await _commit(log, step)


async def drop_other(log: Log, entry: ParkedEntry, origin: Origin) -> bool:
    step = log.step(entry.pool, origin)
    step.check("parked", entry.key)
    step.write("unpark", entry.key)
    return await _commit(log, step)


async def _commit(log: Log, step: Step) -> bool:
    return (await log.commit(step)).outcome is Outcome.DONE
