"""The state of a pool read from Redis, where its history is gone: database lost, stream trimmed.

A stream that starts after seq 1 cannot be folded. Live agents and workers still have their hashes:
these are read, each with the `seq` at that time, and brought to the stream's end by later events.
So live agents and workers are complete (but for a few times and the last error). Ended agents are
complete where the stream still has their request, and unknown otherwise. The archive starts where
the stream does. Hashes that cannot be read are left out and named, to be parked: they delay nothing
else, and their later events are skipped. With an unreadable event in the stream no state can be
made, since the hashes were read after it.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace
from redis.exceptions import ResponseError

from eventstore.errors import MusterError, UnknownEvent, Unreadable
from eventstore.language import agents, workers
from eventstore.language.agents import Agent
from eventstore.language.events import AgentRequested, Event, LogRecovered, WorkerRequested
from eventstore.language.workers import Worker
from eventstore.log.replies import fields_of, text_of
from eventstore.steps import hashes
from projector.fold.fold import State, WorkerLoad
from projector.intake.entries import REASON_MAX, event_of
from projector.intake.source import Source
from projector.store.mapping import chunks
from projector.store.rows import EventRow, Position

CHUNK: Final = 300
PAGE: Final = 1000


class SnapshotFailed(MusterError):
    """The stream of a pool whose first events are gone has an unreadable event."""


class Spec(Struct, frozen=True):
    """The input and labels of an agent, as the write side stores them."""

    input: msgspec.Raw = msgspec.Raw(b"{}")
    labels: dict[str, str] = {}


class Snapshot(Struct, frozen=True, kw_only=True):
    """A pool at `position`; `rows` are all events of its stream up to there."""

    position: Position
    state: State
    rows: list[EventRow]
    damaged: list[Unreadable]
    """Agents and workers that are left out."""


class _RedisState(Struct):
    """What was read from Redis, each part with the seq at that time."""

    agents: dict[str, tuple[int, Agent]] = field(default_factory=dict)
    workers: dict[str, tuple[int, Worker]] = field(default_factory=dict)
    damaged: list[Unreadable] = field(default_factory=list)


async def truncated_start(source: Source, pool: str) -> int:
    """The seq of the first event in the stream if it is not 1, else 0."""
    entries = await source.after(Position(pool), count=1)
    return entries[0].seq if entries and entries[0].seq > 1 else 0


async def take_snapshot(source: Source, pool: str) -> Snapshot:
    """Read a pool's hashes, then its stream, and bring the first to the end of the second.

    Raises `SnapshotFailed`, `LogUnreachable` and `LogError`.
    """
    found = _RedisState()
    await _read_agents(source, pool, found)
    await _read_workers(source, pool, found)
    try:
        rows = await _read_stream(source, pool)
        state = _catch_up(pool, found, [event_of(row) for row in rows])
    except (UnknownEvent, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = (
            f"unreadable event in a stream that has lost its beginning: {str(error)[:REASON_MAX]}"
        )
        raise SnapshotFailed(f"{reason}; nothing was skipped") from error
    last = rows[-1]
    position = Position(pool, last.generation, last.seq, last.stream_id, last.ts)
    return Snapshot(position=position, state=state, rows=rows, damaged=found.damaged)


async def _read_agents(source: Source, pool: str, found: _RedisState) -> None:
    keys = source.keys
    (ids,) = await source.ask([("SMEMBERS", keys.pool(pool, "agents"))])
    for chunk in chunks(sorted(text_of(one) for one in ids), CHUNK):
        raw = [("HGETALL", keys.agent(pool, one)) for one in chunk]
        specs = [("GET", keys.pool(pool, f"spec:{one}")) for one in chunk]
        seq, replies = await _read_atomically(source, pool, [*raw, *specs])
        for number, agent_id in enumerate(chunk):
            try:
                agent = _decode_agent(agent_id, replies[number], replies[len(chunk) + number])
            except Unreadable as error:
                found.damaged.append(error)
            else:
                if agent is not None:
                    found.agents[agent_id] = (seq, agent)


def _decode_agent(agent_id: str, raw: Any, spec: Any) -> Agent | None:
    """None where there is no hash. Raises `Unreadable`."""
    fields = _texts("agent", agent_id, raw)
    if not fields:
        return None
    try:
        agent_spec = msgspec.json.decode(spec or b"{}", type=Spec)
    except (msgspec.DecodeError, TypeError) as error:
        raise Unreadable(
            "agent", agent_id, f"its input and labels cannot be read: {error}"
        ) from error
    requested_ms = _requested_ms(agent_id)
    return replace(
        hashes.AGENT.from_hash(agent_id, fields),
        input=agent_spec.input,
        labels=agent_spec.labels,
        requested_ms=requested_ms,
        changed_ms=requested_ms,
    )


async def _read_workers(source: Source, pool: str, found: _RedisState) -> None:
    keys = source.keys
    listed = await source.ask(
        [
            ("ZRANGE", keys.pool(pool, "processes"), "0", "-1"),
            ("ZRANGE", keys.pool(pool, "orders"), "0", "-1"),
            ("SMEMBERS", keys.pool(pool, "lost")),
        ]
    )
    ids = {text_of(one) for chunk in listed for one in chunk}
    for some in chunks(sorted(ids), CHUNK):
        raw = [("HGETALL", keys.process(pool, one)) for one in some]
        seq, replies = await _read_atomically(source, pool, raw)
        for worker_id, reply in zip(some, replies, strict=True):
            try:
                if fields := _texts("worker", worker_id, reply):
                    found.workers[worker_id] = (seq, hashes.WORKER.from_hash(worker_id, fields))
            except Unreadable as error:
                found.damaged.append(error)


async def _read_atomically(
    source: Source, pool: str, commands: Sequence[tuple[str, ...]]
) -> tuple[int, list[Any]]:
    with_seq = [("HGET", source.meta(pool), "seq"), *commands]
    seq, *replies = await source.ask(with_seq, atomic=True, return_errors=True)
    return int(seq or 0), replies


async def _read_stream(source: Source, pool: str) -> list[EventRow]:
    """All of it. Its first entries are of the current generation, or of an earlier one."""
    heads = await source.heads([pool])
    position = Position(pool, heads[pool].generation)
    rows: list[EventRow] = []
    while page := await source.after(position, count=PAGE):
        rows += page
        position = Position(pool, page[-1].generation, page[-1].seq, page[-1].stream_id)
    return _with_generations(rows)


def _with_generations(rows: list[EventRow]) -> list[EventRow]:
    """With entries before a recovery in the generation that it recovered."""
    generation = 0
    result = []
    for row in reversed(rows):
        result.append(replace(row, generation=generation) if generation else row)
        if row.type == LogRecovered.type:
            body = event_of(row).body
            generation = body.from_generation if isinstance(body, LogRecovered) else 0
    return result[::-1]


def _catch_up(pool: str, found: _RedisState, events: Sequence[Event]) -> State:
    """Fold events that followed each read, and all of those that the stream has from the first."""
    read_at = {
        name: seq for part in (found.agents, found.workers) for name, (seq, _) in part.items()
    }
    known_agents = {name: agent for name, (_, agent) in found.agents.items()}
    known_workers = {name: worker for name, (_, worker) in found.workers.items()}
    for event in events:
        name = event.subject
        if event.seq <= read_at.get(name, 0):
            continue
        if event.type.startswith("agent.") and (
            name in known_agents or isinstance(event.body, AgentRequested)
        ):
            known_agents[name] = agents.evolve(known_agents.get(name), event, pool)
        elif event.type.startswith("worker.") and (
            name in known_workers or isinstance(event.body, WorkerRequested)
        ):
            known_workers[name] = workers.evolve(known_workers.get(name), event, pool)
    holders = [agent.worker_id for agent in known_agents.values() if agent.held]
    isolated = {a.worker_id: a.agent_id for a in known_agents.values() if a.held and a.alone}
    loads = {
        name: WorkerLoad(worker, holders.count(name), isolated.get(name, ""))
        for name, worker in known_workers.items()
    }
    return State(known_agents, loads)


def _texts(kind: str, name: str, reply: Any) -> dict[str, str]:
    """A hash, from the reply of redis-py in a pipeline. Raises `Unreadable`."""
    if isinstance(reply, ResponseError):
        raise Unreadable(kind, name, "its key is not a hash")
    return fields_of(reply)


def _requested_ms(agent_id: str) -> int:
    """When an id was made: the first 48 bits of a UUIDv7 (RFC 9562)."""
    try:
        return int(agent_id.replace("-", "")[:12], 16)
    except ValueError:
        return 0
