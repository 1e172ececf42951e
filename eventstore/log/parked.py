"""Lists parked agents, and requeues or ends them as an operator decides.

A script parks an agent whose hash cannot be read, and records the reason and the time. The hash is
not changed, and is read when the agent is listed. It is only a fold of the agent's events: a
damaged one is rebuilt from the views, which are another fold of them.
"""

import asyncio
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from eventstore.connection.calls import ask
from eventstore.errors import Unreadable, WrongType
from eventstore.language import agent_commands
from eventstore.language.agents import Agent
from eventstore.log.log import Log
from eventstore.log.replies import Outcome, fields_of
from eventstore.steps import clauses
from eventstore.steps.step import Fence, Origin, Step

CHUNK: Final = 20
"""How many hashes are read concurrently."""


class ParkedRecord(Struct, frozen=True):
    """The stored record of a parked agent. The previous version wrote more fields."""

    reason: str
    at_ms: int
    content: tuple[str, ...] = ()
    """Alternating names and values; only for records that are not about agents."""


class ParkedEntry(Struct, frozen=True, kw_only=True):
    """An agent that cannot be read."""

    id: str
    """The pool, source and subject, with colons between."""
    pool_name: str
    source: str
    """`agent`; also `worker`, `command` or `heartbeat` where the previous version parked it."""
    subject: str
    """The agent."""
    reason: str
    content: dict[str, str]
    """The fields that Redis stores of it now."""
    parked_at: int

    @property
    def key(self) -> str:
        """Its name within the pool."""
        return f"{self.source}:{self.subject}"

    @property
    def place(self) -> str:
        """Its place in the order of all."""
        return f"{self.pool_name}:{self.parked_at:015}:{self.key}"


async def read(
    log: Log, pool: str, *, after: str = "", limit: int | None = None
) -> list[ParkedEntry]:
    """The parked entries of a pool, oldest first; those after a place."""
    raw = await ask(log.client, "HGETALL", log.keys.pool(pool, "parked"))
    entries = [_decode_record(pool, key, value) for key, value in fields_of(raw).items()]
    entries = sorted((one for one in entries if one.place > after), key=lambda one: one.place)
    found: list[ParkedEntry] = []
    for start in range(0, len(entries[:limit]), CHUNK):
        chunk = entries[:limit][start : start + CHUNK]
        found += await asyncio.gather(*(_with_content(log, entry) for entry in chunk))
    return found


async def find(log: Log, pool: str, key: str) -> ParkedEntry | None:
    raw = await ask(log.client, "HGET", log.keys.pool(pool, "parked"), key)
    return await _with_content(log, _decode_record(pool, key, raw)) if raw else None


def _decode_record(pool: str, key: str, raw: bytes | str) -> ParkedEntry:
    record = msgspec.json.decode(raw, type=ParkedRecord)
    source, _, subject = key.partition(":")
    content = record.content if len(record.content) > 1 else ("data", *record.content)
    return ParkedEntry(
        id=f"{pool}:{key}",
        pool_name=pool,
        source=source,
        subject=subject,
        reason=record.reason,
        content=dict(zip(content[::2], content[1::2], strict=False)),
        parked_at=record.at_ms,
    )


async def _with_content(log: Log, entry: ParkedEntry) -> ParkedEntry:
    """Add the fields of the agent's hash; none if the key is missing or of another type."""
    if entry.source != "agent":
        return entry
    try:
        raw = await ask(log.client, "HGETALL", log.keys.agent(entry.pool_name, entry.subject))
    except WrongType:
        raw = ()
    return replace(entry, content=fields_of(raw))


async def repair(
    log: Log, entry: ParkedEntry, from_views: Agent | None, origin: Origin, *, drop: bool
) -> bool:
    """Unpark an agent and put it where its state belongs, or end it for good (`drop`).

    Of what is no agent, which the previous version parked, too, only the record is deleted.
    `from_views`: its state in the views; a damaged hash is rebuilt from that. An agent that its
    worker still runs stays there, or is ended there at once. False if something changed
    meanwhile. Raises `Unreadable` if neither state can be read.
    """
    step = log.step(entry.pool_name, origin)
    step.check(clauses.IsParked(entry.key))
    step.write(clauses.Unpark(entry.key))
    if entry.source == "agent":
        await _restore(log, step, entry, from_views, drop=drop)
    return (await log.commit(step)).outcome is Outcome.DONE


async def _restore(
    log: Log, step: Step, entry: ParkedEntry, from_views: Agent | None, *, drop: bool
) -> None:
    agent, is_stored = await _readable_state(log, step, entry, from_views)
    if agent is not None and not is_stored:
        step.restore_agent(agent, replace=True)
    if agent is not None and not agent.ended:
        is_running = agent.held and agent.agent_id in await log.held(
            entry.pool_name, agent.worker_id
        )
        command = _command(log, entry, agent, is_running, drop)
        if command is not None and (bodies := agent_commands.decide(command, agent)):
            fence = None if is_running else await _fence(log, agent)
            step.agent(agent.agent_id, agent, bodies, fence=fence, checked=is_stored)
        elif is_stored and not agent.held:
            step.requeue(agent)


async def _readable_state(
    log: Log, step: Step, entry: ParkedEntry, from_views: Agent | None
) -> tuple[Agent | None, bool]:
    """The agent, and whether it was read from Redis; then the step checks that it is unchanged."""
    try:
        stored = await log.agent(entry.pool_name, entry.subject)
    except Unreadable:
        if from_views is None:
            raise
        return from_views, False
    if stored is not None:
        step.check(clauses.AgentUnchanged(stored.agent_id, stored.version, stored.incarnation))
        return stored, True
    return (None if from_views is None or from_views.ended else from_views), False


def _command(
    log: Log, entry: ParkedEntry, agent: Agent, is_running: bool, drop: bool
) -> agent_commands.Command | None:
    """The command that ends or requeues an agent; None if restoring its state is enough."""
    if drop and is_running:
        return agent_commands.Terminate(reason="dropped", graceful=False)
    if drop:
        return agent_commands.Drop()
    if not agent.held or is_running:
        return None
    return agent_commands.MarkLost(
        worker_id=agent.worker_id, reason=entry.reason, now_ms=log.now_ms(entry.pool_name)
    )


async def _fence(log: Log, agent: Agent) -> Fence | None:
    """The epoch under which the agent's worker was declared lost, if it is still known."""
    found = await log.worker(agent.pool_name, agent.worker_id) if agent.held else None
    if found is None or found.worker.alive:
        return None
    return Fence(agent.worker_id, found.worker.epoch, lost=True)
