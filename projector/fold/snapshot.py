"""The state of a pool read from Redis, where its history is gone: database lost, stream trimmed.

A stream that starts after seq 1 cannot be folded. Live agents and workers still have their hashes:
these are read, each with the `seq` at that time, and brought to the stream's end by later events.
So live agents and workers are complete (but for a few times and the last error). Ended agents are
complete where the stream still has their request, and unknown otherwise. The archive starts where
the stream does. Hashes that cannot be read are left out and named, to be parked: they delay nothing
else, and their later events are skipped. With an unreadable event in the stream no state can be
made, since the hashes were read after it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace
from sqlalchemy import Connection

from eventstore.errors import MusterError, UnknownEvent, Unreadable
from eventstore.keys import CATALOGUE
from eventstore.language.agents import Agent
from eventstore.language.catalogue import Catalogue
from eventstore.language.events import Event, LogRecovered
from eventstore.language.workers import Worker
from eventstore.log.log import Log
from eventstore.log.replies import fields_of, text_of
from eventstore.redis_errors import ResponseError
from eventstore.steps import hashes
from projector.fold.fold import State, Unfoldable, WorkerLoad, fold
from projector.intake.entries import REASON_MAX, event_of
from projector.intake.source import Source
from projector.store import archive_starts
from projector.store.archive_starts import ArchiveStart
from projector.store.mapping import chunks
from projector.store.rows import EventRow, Position
from projector.store.usage_rows import Account, Sums

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
    catalogue: Catalogue | None = None
    """If it is one of the catalogue."""
    usage: Sequence[tuple[Account, Sequence[Sums]]] | None = None
    """The sums of usage up to there; None: they are unknown, and so may be some agents."""


class _RedisState(Struct):
    """What was read from Redis; `read_at`: the seq at that time, of each agent and worker."""

    agents: dict[str, Agent] = field(default_factory=dict)
    workers: dict[str, WorkerLoad] = field(default_factory=dict)
    read_at: dict[str, int] = field(default_factory=dict)
    damaged: list[Unreadable] = field(default_factory=list)


async def truncated_start(source: Source, pool: str) -> int:
    """The seq of the first event in the stream if it is not 1, else 0."""
    entries = await source.after(Position(pool), count=1)
    return entries[0].seq if entries and entries[0].seq > 1 else 0


async def take_snapshot(source: Source, pool: str) -> Snapshot:
    """Read a pool's hashes, then its stream, and bring the first to the end of the second.

    Raises `SnapshotFailed`, `LogUnreachable` and `LogError`.
    """
    if pool == CATALOGUE:
        return await _catalogue_snapshot(source)
    found = _RedisState()
    await _read_agents(source, pool, found)
    await _read_workers(source, pool, found)
    try:
        rows = await _read_stream(source, pool)
        state = _catch_up(pool, found, [event_of(row) for row in rows])
    except (UnknownEvent, Unfoldable, ValueError, KeyError, TypeError, RecursionError) as error:
        where, reason = "in a stream that has lost its beginning", str(error)[:REASON_MAX]
        message = f"unreadable event {where}: {reason}; nothing was skipped"
        raise SnapshotFailed(message) from error
    last = rows[-1]
    position = Position(pool, last.generation, last.seq, last.stream_id, last.ts)
    return Snapshot(position=position, state=state, rows=rows, damaged=found.damaged)


async def _catalogue_snapshot(source: Source) -> Snapshot:
    """What was stored when the catalogue was trimmed; its stream goes on from there."""
    try:
        rows = await _read_stream(source, CATALOGUE)
        state = await Log(source.client, source.keys).catalogue_snapshot()
    except (UnknownEvent, Unreadable) as error:
        raise SnapshotFailed(f"the catalogue was trimmed: {error}") from error
    if not rows or state.seq + 1 < rows[0].seq:
        raise SnapshotFailed("the catalogue was trimmed, and its snapshot is gone")
    ts = int(state.stream_id.partition("-")[0])
    first, rows = rows[0], [row for row in rows if row.seq <= state.seq]
    generation = rows[-1].generation if rows else first.generation
    position = Position(CATALOGUE, generation, state.seq, state.stream_id, ts)
    return Snapshot(position=position, state=State(), rows=rows, damaged=[], catalogue=state)


async def _read_agents(source: Source, pool: str, found: _RedisState) -> None:
    keys = source.keys
    (ids,) = await source.ask([("SMEMBERS", keys.pool(pool, "agents"))])
    for chunk in chunks(sorted(map(text_of, ids)), CHUNK):
        raw = [("HGETALL", keys.agent(pool, one)) for one in chunk]
        specs = [("GET", keys.pool(pool, f"spec:{one}")) for one in chunk]
        seq, replies = await source.ask_with_seq(pool, [*raw, *specs])
        for agent_id, reply, spec in zip(chunk, replies, replies[len(chunk) :], strict=False):
            try:
                if fields := _texts("agent", agent_id, reply):
                    found.agents[agent_id] = _decode_agent(agent_id, fields, spec)
                    found.read_at[agent_id] = seq
            except Unreadable as error:
                found.damaged.append(error)


def _decode_agent(agent_id: str, fields: dict[str, str], spec: Any) -> Agent:
    """Raises `Unreadable`."""
    try:
        agent_spec = msgspec.json.decode(spec or b"{}", type=Spec)
    except (msgspec.DecodeError, TypeError) as error:
        reason = f"its input and labels cannot be read: {error}"
        raise Unreadable("agent", agent_id, reason) from error
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
    lists = [("ZRANGE", keys.pool(pool, name), "0", "-1") for name in ("processes", "orders")]
    listed = await source.ask([*lists, ("SMEMBERS", keys.pool(pool, "lost"))])
    ids = {text_of(one) for chunk in listed for one in chunk}
    for some in chunks(sorted(ids), CHUNK):
        raw = [("HGETALL", keys.process(pool, one)) for one in some]
        seq, replies = await source.ask_with_seq(pool, raw)
        for worker_id, reply in zip(some, replies, strict=True):
            try:
                if fields := _texts("worker", worker_id, reply):
                    worker = hashes.WORKER.from_hash(worker_id, fields)
                    found.workers[worker_id] = WorkerLoad(worker)
                    found.read_at[worker_id] = seq
            except Unreadable as error:
                found.damaged.append(error)


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
    later = [event for event in events if event.seq > found.read_at.get(event.subject, 0)]
    changed = fold(pool, later, State(found.agents, found.workers), truncated=True)
    agents = found.agents | changed.agents
    workers = {n: load.worker for n, load in (found.workers | changed.workers).items()}
    return _with_loads(agents, workers)


def _with_loads(agents: dict[str, Agent], workers: Mapping[str, Worker]) -> State:
    """The state of a pool of which all living agents and workers are known."""
    held = [agent for agent in agents.values() if agent.held]
    agent_counts = Counter(agent.worker_id for agent in held)
    isolated = {agent.worker_id: agent.agent_id for agent in held if agent.alone}
    loads = {
        name: WorkerLoad(worker, agent_counts[name], isolated.get(name, ""))
        for name, worker in workers.items()
    }
    return State(agents, loads)


def stored_snapshot(connection: Connection, start: ArchiveStart) -> Snapshot:
    """With what the log of a pool starts whose archive was pruned. Raises `SnapshotDamaged`."""
    entries = archive_starts.read_entries(connection, start)
    state = _with_loads(archive_starts.agents_of(entries), archive_starts.workers_of(entries))
    position = Position(start.pool, start.generation, start.seq, start.stream_id, start.ts)
    usage = list(archive_starts.usage_of(start.pool, entries))
    return Snapshot(position=position, state=state, rows=[], damaged=[], usage=usage)


def _texts(kind: str, name: str, reply: Any) -> dict[str, str]:
    """A hash, from its reply. Raises `Unreadable`."""
    if isinstance(reply, ResponseError):
        raise Unreadable(kind, name, "its key is not a hash")
    return fields_of(reply)


def _requested_ms(agent_id: str) -> int:
    """When an id was made: the first 48 bits of a UUIDv7 (RFC 9562)."""
    try:
        return int(agent_id.replace("-", "")[:12], 16)
    except ValueError:
        return 0
