"""What is stored and answered today, in the forms in which others see it.

The samples hold no name of the code, only these forms. What makes them from the code is called
here and in `tests.golden_surface`, and nowhere else: where functions move or are renamed, these
modules follow, and no sample does.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy.dialects import postgresql, sqlite

from eventstore.language import agents, workers
from eventstore.language import catalogue as pools
from eventstore.language.agents import Agent
from eventstore.language.catalogue import Catalogue, Host, Pool
from eventstore.language.events import _BODIES, ENTRY_FIELDS, EVENT_TYPES, Event, decode_entry
from eventstore.language.workers import Worker
from eventstore.steps import hashes
from eventstore.steps.clauses import AppendEvent
from eventstore.steps.step import Origin, Step
from gateway.following.subscriptions import encode_event
from gateway.wire.decoding import decode_body
from gateway.wire.idempotency import digest_of_meaning
from gateway.wire.requests import SpawnRequest
from projector.fold.heartbeats import Heartbeat, gather
from projector.intake.entries import entry_of, event_of, read_entry
from projector.store import mapping, rows
from projector.store.capacity import PoolCapacity
from projector.store.rows import AgentRow, EventRow
from projector.store.tables import AGENT_LIVE, METADATA, SQL_VIEWS, WORKER_LIVE

POOL, GENERATION = "golden_pool", 3
FIELDS = ENTRY_FIELDS
TYPES = EVENT_TYPES
VERSIONS = {kind: str(body.version) for kind, body in _BODIES.items()}
HEARTBEAT = Heartbeat.type
Entry = tuple[bytes, Sequence[bytes]]
Form = dict[str, Any]


def read(entry: Entry) -> Event:
    """An event as the write side reads it from a stream."""
    return decode_entry(*entry)


def written(event: Event) -> Form:
    """The fields that are handed to Redis for an event; those that the script adds as recorded."""
    origin = Origin(
        actor=event.actor,
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
        traceparent=event.traceparent,
    )
    step = Step(POOL, lambda: event.event_id, origin, ended_ms=1)
    step.event(
        event.body,
        event.subject,
        incarnation=event.incarnation,
        worker_id=event.worker_id,
        epoch=event.epoch,
    )
    [clause] = step.writes
    assert isinstance(clause, AppendEvent)
    names = [name for name in FIELDS if name not in ("seq", "ts")]
    fields = dict(zip(names, map(_text, clause.values), strict=True))
    fields |= {"seq": str(event.seq), "ts": str(event.ts)}
    return {name: fields[name] for name in FIELDS}


def fold_agent(events: Sequence[Event]) -> Agent:
    agent = None
    for event in events:
        agent = agents.evolve(agent, event, POOL)
    assert agent is not None
    return agent


def fold_worker(events: Sequence[Event]) -> Worker:
    worker = None
    for event in events:
        worker = workers.evolve(worker, event, POOL)
    assert worker is not None
    return worker


def fold_catalogue(events: Sequence[Event]) -> tuple[Sequence[Pool], Sequence[Host]]:
    catalogue = Catalogue()
    for event in events:
        catalogue = pools.evolve(catalogue, event)
    return list(catalogue.pools.values()), list(catalogue.hosts.values())


def token_forms(events: Sequence[Event]) -> Form:
    """The rows of the tokens there are at the end of a catalogue, by their names."""
    catalogue = Catalogue()
    for event in events:
        catalogue = pools.evolve(catalogue, event)
    return {token.name: mapping.token_record(token) for token in catalogue.tokens.values()}


def token_row(row: Form) -> Form:
    """A row, read and written again."""
    return mapping.token_record(mapping.token_of(row))


def agent_forms(agent: Agent) -> Form:
    row = mapping.agent_record(agent, GENERATION)
    live = {"activity": "busy", "last_heartbeat": 1_795_000_009_876}
    capacity = PoolCapacity(
        free_slots=0, workers=4, ordered_workers=0, max_workers=4, isolated_workers=1
    )
    return {
        "hash": hashes.AGENT.to_hash(agent),
        "row": row,
        "answer from the views": _json(rows.agent_row({**row, **live}, capacity)),
        "answer from the log": _json(AgentRow.of(agent, GENERATION)),
    }


def agent_from_hash(agent_id: str, fields: Mapping[str, str]) -> Agent:
    return hashes.AGENT.from_hash(agent_id, fields)


def agent_from_row(row: Form) -> Agent:
    return mapping.agent_of(row)


def as_stored_in_redis(agent: Agent) -> Agent:
    """Without fields that only the views have."""
    return replace(
        agent,
        input=msgspec.Raw(b"{}"),
        labels={},
        last_error=None,
        state_size=0,
        saved_ms=0,
        requested_ms=0,
        started_ms=0,
        ended_ms=0,
        changed_ms=0,
    )


def worker_forms(worker: Worker) -> Form:
    row = mapping.worker_record(
        worker, agent_count=7, isolated_agent="0199aaaa-0000-7000-8000-000000000001"
    )
    end = {name: row.pop(name) for name in list(row)[list(row).index("max_agents") :]}
    row |= {"alone": end.pop("alone"), **end}  # as recorded: in SQL the names count, not the order
    live = {"last_heartbeat": 1_795_000_009_876, "loop_lag_ms": 0.125, "memory_bytes": 54_321_000}
    return {
        "hash": hashes.WORKER.to_hash(worker),
        "row": row,
        "answer": _json(rows.worker_row({**row, **live})),
    }


def worker_from_hash(worker_id: str, fields: Mapping[str, str]) -> Worker:
    return hashes.WORKER.from_hash(worker_id, fields)


def worker_from_row(row: Form) -> Worker:
    return mapping.worker_of(row)


def worker_as_stored_in_redis(worker: Worker) -> Worker:
    return replace(worker, requested_ms=0, started_ms=0, ended_ms=0)


def pool_forms(pool: Pool) -> Form:
    row = mapping.pool_record(pool)
    capacity = {
        "process_count": 3,
        "total_capacity": 30,
        "used_capacity": 25,
        "available_capacity": 5,
        "agent_count": 27,
        "pending_count": 2,
        "utilization": 0.8333,
        "active_worker_processes": 3,
    }
    return {"row": row, "answer": _json(rows.pool_row({**row, **capacity}))}


def pool_from_row(row: Form) -> Pool:
    return mapping.pool_of(row)


def host_forms(host: Host) -> Form:
    row = mapping.host_record(host)
    shown = rows.host_row(row)
    return {"row": row, "answer": _json(shown)}


def host_from_row(row: Form) -> Host:
    return mapping.host_of(row)


def event_forms(entry: Entry) -> Form:
    """An event in the archive, and as clients that follow get it."""
    archived = _archived(entry)
    return {
        "row": {name: getattr(archived, name) for name in EventRow.__struct_fields__},
        "answer": encode_event(POOL, entry).lines.partition(b"\ndata: ")[2].decode(),
    }


def entry_from_row(row: Form) -> Entry:
    """An archived event as its stream had it."""
    return entry_of(EventRow(**row))


def read_from_archive(entry: Entry) -> Event:
    return event_of(_archived(entry))


def _archived(entry: Entry) -> EventRow:
    return read_entry(POOL, GENERATION, entry)


def heartbeat_forms(entries: Sequence[Entry]) -> Form:
    gathered = gather({POOL: entries})
    assert gathered.unreadable == []
    rows = ((AGENT_LIVE, gathered.agents), (WORKER_LIVE, gathered.workers))
    return {
        table.name.replace("_live", "s"): [
            dict(zip(table.columns.keys(), row, strict=True)) for row in some
        ]
        for table, some in rows
    }


def digest_of(spawn: str) -> str:
    """The digest of a request that earlier versions stored with its Idempotency-Key."""
    return digest_of_meaning(decode_body(spawn.encode(), SpawnRequest)[0])


def table_forms() -> Form:
    """Every column of every table, for both databases, and the SQL views."""
    dialects = {"sqlite": sqlite.dialect(), "postgresql": postgresql.dialect()}
    return {
        "tables": {
            table.name: {
                column.name: {
                    **{name: column.type.compile(dialect) for name, dialect in dialects.items()},
                    "key": column.primary_key,
                    "nullable": column.nullable,
                }
                for column in table.columns
            }
            for table in METADATA.sorted_tables
        },
        "indexes": {
            str(index.name): [table.name, *(column.name for column in index.columns)]
            for table in METADATA.sorted_tables
            for index in sorted(table.indexes, key=lambda one: str(one.name))
        },
        **{
            name: hashlib.sha256(" ".join(statement.split()).encode()).hexdigest()
            for name, statement in SQL_VIEWS.items()
        },
    }


def _json(answer: object) -> str:
    return msgspec.json.encode(answer).decode()


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
