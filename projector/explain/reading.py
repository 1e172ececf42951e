"""Reads a story from the archive, by its index on subjects, however long the archive is.

Causes have no index of their own. They are events of the pool or of a worker that the story names,
and are found among those just before what follows from them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Select, func, select

from eventstore.keys import CATALOGUE
from eventstore.language import events
from eventstore.language.events import Event
from projector.explain.explain import IN_CATALOGUE
from projector.explain.story import Story
from projector.history.positions import LogPosition
from projector.intake.archive import generation_ranges
from projector.intake.entries import event_of
from projector.store.mapping import chunks
from projector.store.rows import EventRow
from projector.store.tables import EVENTS

E = EVENTS.c
CONTEXT: Final = 4
"""So many events before the last ones are read, for what these say."""
WORKERS_READ: Final = 100
"""Workers whose events are read at once."""
WORKER_EVENTS_MAX: Final = 2_000
DECISIONS: Final = 10
"""So many events of the pool before a claim or an order are read..."""
ORDERS_MAX: Final = 20
"""...and so many of the workers that each ordered."""
ENDS_WITHIN: Final = 50
"""Among so many events before a decision the last ends of workers are searched for..."""
ENDS_MAX: Final = 3
"""...and so many of them are read."""
CONCERNED: Final = {"worker.lost": "agent.lost", "worker.draining": "agent.released"}
"""What happens to agents because of an event of their worker..."""
CONCERNED_MS: Final = 60_000
"""...within this time."""


def end_of(connection: Connection, pool: str) -> LogPosition:
    """The present position of a log."""
    return LogPosition(pool, tuple(generation_ranges(connection, pool)), 0, at_end=True)


def read_story(
    connection: Connection,
    subject: str,
    log: LogPosition,
    catalogue: LogPosition | None,
    *,
    limit: int,
) -> Story:
    """The first and the last `limit` events of a subject, and those that they follow from.

    `log`: that of its pool, up to where; `catalogue`: also events of the catalogue, of a pool.
    """
    changes = [] if catalogue is None else _changes(connection, catalogue, subject)
    own = _of_subject(log, subject)
    newest = _read(connection, log, own.order_by(E.seq.desc()).limit(limit + CONTEXT))
    oldest = _read(connection, log, own.order_by(E.seq).limit(1))
    found = {event.event_id: event for event in (*changes, *oldest, *newest)}
    ordered = sorted(found.values(), key=lambda event: (event.ts, event.seq))
    total = len(ordered)
    if oldest[:1] != newest[:1]:  # others are between these
        total = len(changes) + _count(connection, log, subject, catalogue)
    last, before = ordered[-limit:], ordered[:-limit]
    first = before[:1]
    shown = [*first, *last]
    left_out = max(total - len(shown), 0)
    near = before[-CONTEXT:] if not left_out else before[1:][-CONTEXT:]
    context = [e for e in before if e in near or isinstance(e.body, IN_CATALOGUE)]
    others = _others(connection, log, [*context, *shown])
    return Story(
        pool=log.pool,
        first=first,
        last=last,
        context=context,
        left_out=left_out,
        others=others,
        agents={e.event_id: n for e in shown if (n := _concerned(connection, log, e))},
    )


def _of_subject(log: LogPosition, *subjects: str) -> Select[Any]:
    """Events by the index on subjects: the pool's log is selected so that no other index serves."""
    query = select(EVENTS).where(E.subject.in_(subjects), E.pool.concat("") == log.pool)
    return query.where(E.seq <= log.seq)


def _read(connection: Connection, log: LogPosition, query: Select[Any]) -> list[Event]:
    """In the order of the log, without events that a recovery has superseded."""
    rows = (EventRow(**row) for row in connection.execute(query).mappings())
    return [event_of(row) for row in sorted(filter(log.includes, rows), key=lambda row: row.seq)]


def _changes(connection: Connection, catalogue: LogPosition, pool: str) -> list[Event]:
    """What the catalogue has of a pool; of the whole catalogue only events of pools are read."""
    types = E.type.in_([body.type for body in IN_CATALOGUE])
    query = select(EVENTS).where(
        types, E.pool.concat("") == CATALOGUE, E.subject.concat("") == pool
    )
    return _read(connection, catalogue, query)


def _count(
    connection: Connection, log: LogPosition, subject: str, catalogue: LogPosition | None
) -> int:
    """How many events of the subject the log has.

    Where nothing was superseded the index has all that is needed: it does not name logs, so events
    of a pool that are in the catalogue are subtracted.
    """
    query = select(func.count()).select_from(EVENTS).where(E.subject == subject)
    if len(log.spans) > 1:
        return int(connection.execute(query.where(log.event_filter())).scalar_one())
    counted = int(connection.execute(query.where(E.seq <= log.seq)).scalar_one())
    if catalogue is None:
        return counted
    elsewhere = select(func.count()).where(E.pool == CATALOGUE, E.subject.concat("") == subject)
    return counted - int(connection.execute(elsewhere.where(E.seq <= log.seq)).scalar_one())


def _others(connection: Connection, log: LogPosition, shown: Sequence[Event]) -> dict[str, Event]:
    """Events of workers that are named, and of the pool before claims, orders and the like."""
    own = {event.subject for event in shown}
    workers = dict.fromkeys(e.worker_id for e in shown if e.worker_id and e.worker_id not in own)
    found = {e.event_id: e for e in _of_workers(connection, log, workers)}
    known = {event.event_id for event in shown} | found.keys()
    for event in (*shown, *list(found.values())):
        follows = event.causation_id and event.causation_id not in known
        if follows or isinstance(event.body, events.AgentClaimed):
            for decided in _before(connection, log, event.seq):
                found[decided.event_id] = decided
    for event in shown:
        if isinstance(event.body, events.PoolScalingDecided):
            found |= {end.event_id: end for end in _ends(connection, log, event.seq)}
    ordered: dict[str, None] = {}
    if any(isinstance(event.body, events.AgentClaimed) for event in shown):
        for event in [e for e in found.values() if isinstance(e.body, events.PoolScalingDecided)]:
            ordered |= dict.fromkeys(_orders(connection, log, event))
    new = [worker for worker in ordered if worker not in workers and worker not in own]
    return found | {e.event_id: e for e in _of_workers(connection, log, new)}


def _of_workers(connection: Connection, log: LogPosition, ids: Iterable[str]) -> list[Event]:
    found: list[Event] = []
    for some in chunks(ids, WORKERS_READ):
        query = _of_subject(log, *some).order_by(E.seq.desc()).limit(WORKER_EVENTS_MAX)
        found += _read(connection, log, query)
    return found


def _before(connection: Connection, log: LogPosition, seq: int) -> list[Event]:
    """The last events of the pool itself before a `seq`."""
    query = _of_subject(log, log.pool).where(E.seq < seq)
    return _read(connection, log, query.order_by(E.seq.desc()).limit(DECISIONS))


def _ends(connection: Connection, log: LogPosition, seq: int) -> list[Event]:
    """Workers that were drained or lost just before a decision, which may be why it was made."""
    # By their place in the log: by type there may be very many.
    types = E.type.concat("").in_([events.WorkerDraining.type, events.WorkerLost.type])
    near = select(EVENTS).where(log.event_filter(seq - ENDS_WITHIN), E.seq < seq, types)
    return _read(connection, log, near.order_by(E.seq.desc()).limit(ENDS_MAX))


def _orders(connection: Connection, log: LogPosition, decision: Event) -> list[str]:
    """The workers that a decision has ordered: their orders follow it in the same step."""
    body = decision.body
    assert isinstance(body, events.PoolScalingDecided)
    number = min(body.desired - body.current, ORDERS_MAX)
    if number <= 0:
        return []
    query = select(EVENTS).where(log.event_filter(decision.seq + 1), E.seq <= decision.seq + number)
    return [
        event.subject
        for event in _read(connection, log, query)
        if event.causation_id == decision.event_id
    ]


def _concerned(connection: Connection, log: LogPosition, event: Event) -> int:
    """How many agents an event of their worker concerned."""
    if event.type not in CONCERNED:
        return 0
    query = select(func.count()).where(
        E.type == CONCERNED[event.type],
        E.ts.between(event.ts, event.ts + CONCERNED_MS),
        E.pool.concat("") == log.pool,
        E.worker_id == event.subject,
        E.seq <= log.seq,
    )
    return int(connection.execute(query).scalar_one())
