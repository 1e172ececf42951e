"""Reads a story from the archive, by its index on subjects, however long the archive is.

Causes have no index of their own. They are events of the pool or of a worker that the story names,
and are found among those just before what follows from them.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final

from sqlalchemy import Connection, Select, func, select

from eventstore.keys import CATALOGUE
from eventstore.language import events
from eventstore.language.events import Body, Event
from projector.explain.explain import IN_CATALOGUE
from projector.explain.story import ENDS, Story, without_repeated_saves
from projector.history.positions import LogPosition
from projector.intake.archive import generation_ranges
from projector.intake.entries import event_of
from projector.store.explanations import LEFT_OUT_MAX
from projector.store.mapping import chunks
from projector.store.rows import EventRow
from projector.store.tables import EVENTS

E = EVENTS.c
CONTEXT: Final = 4
"""So many events before the last ones are read, for what these say..."""
SAVES_MAX: Final = 200
"""...and so many more of an agent: saves that another one follows are left out."""
COUNTED_MAX: Final = LEFT_OUT_MAX + 2_000
"""So many events of a pool are counted at most."""
WORKERS_READ: Final = 100
"""Workers whose events are read at once."""
WORKER_EVENTS_MAX: Final = 2_000
DECISIONS: Final = 10
"""So many events of the pool before a claim or an order are read..."""
ORDERS_MAX: Final = 20
"""...and so many of the workers that each ordered."""
NEAR_MAX: Final = 50
"""Of so many decisions at most it is read which workers they ordered, or which ends they follow."""
ENDS_WITHIN: Final = 50
"""Among so many events before a decision ends of workers are searched for."""
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
    catalogue: LogPosition | None = None,
    *,
    limit: int,
    total: int | None = None,
) -> Story:
    """The first and the last `limit` events of a subject, and those that they follow from.

    `log`: that of its pool, up to where; `catalogue`: also events of the catalogue, of a pool.
    `total`: how many events it has; None: they are counted.
    """
    changes = [] if catalogue is None else _changes(connection, catalogue, subject)
    own = _of_subject(log, subject)
    more = SAVES_MAX if catalogue is None else 0
    newest = _read(connection, log, own.order_by(E.seq.desc()).limit(limit + CONTEXT + more))
    oldest = _read(connection, log, own.order_by(E.seq).limit(1))
    found = {event.event_id: event for event in (*changes, *oldest, *newest)}
    ordered = sorted(found.values(), key=lambda event: (event.ts, event.seq))
    if oldest[:1] == newest[:1]:
        total = len(ordered)
    elif total is None:  # others are between these
        total = len(changes) + _count(connection, log, subject)
    ordered = without_repeated_saves(ordered)
    last, before = ordered[-limit:], ordered[:-limit]
    first = before[:1]
    shown = [*first, *last]
    left_out = min(max(total - len(shown), 0), LEFT_OUT_MAX)
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


def _of_subject(log: LogPosition, subject: str, end: int | None = None) -> Select[Any]:
    """Events by the index on subjects, before seq `end`: with one bound, as SQLite uses one."""
    query = select(EVENTS).where(E.subject == subject, E.pool == log.pool)
    return query.where(E.seq < (log.seq + 1 if end is None else end))


def _read(connection: Connection, log: LogPosition, *queries: Select[Any]) -> list[Event]:
    """In the order of the log, without events that a recovery has superseded."""
    found = chain.from_iterable(connection.execute(query).mappings() for query in queries)
    rows = filter(log.includes, (EventRow(**row) for row in found))
    return [event_of(row) for row in sorted(rows, key=lambda row: row.seq)]


def _between(log: LogPosition, first: int, end: int, *types: type[Body]) -> list[Select[Any]]:
    """Events of these types from seq `first` on and before `end`, by their place in the log."""
    of_types = E.type.concat("").in_([body.type for body in types])
    return [span.rows(first=first, end=end).where(of_types) for span in log.spans]


def _changes(connection: Connection, catalogue: LogPosition, pool: str) -> list[Event]:
    """What the catalogue has of a pool; of the whole catalogue only events of pools are read."""
    types = E.type.in_([body.type for body in IN_CATALOGUE])
    query = select(EVENTS).where(
        types, E.pool.concat("") == CATALOGUE, E.subject.concat("") == pool
    )
    return _read(connection, catalogue, query)


def _count(connection: Connection, log: LogPosition, pool: str) -> int:
    """How many events of the pool itself its log has, counted up to `COUNTED_MAX`.

    Where nothing was superseded the index has all that is needed: it does not name logs, so events
    of the pool that are in the catalogue are subtracted.
    """
    own = select(E.seq).where(E.subject == pool, E.seq <= log.seq)
    if len(log.spans) > 1:
        own = own.where(log.event_filter())
    counted = int(
        connection.execute(
            select(func.count()).select_from(own.limit(COUNTED_MAX).subquery())
        ).scalar_one()
    )
    if len(log.spans) > 1 or counted == COUNTED_MAX:
        return counted
    elsewhere = select(func.count()).where(E.pool == CATALOGUE, E.subject.concat("") == pool)
    return counted - int(connection.execute(elsewhere.where(E.seq <= log.seq)).scalar_one())


def _others(connection: Connection, log: LogPosition, shown: Sequence[Event]) -> list[Event]:
    """Events of workers that are named, and of the pool before claims, orders and the like."""
    own = {event.subject for event in shown}
    workers = dict.fromkeys(e.worker_id for e in shown if e.worker_id and e.worker_id not in own)
    found = {e.event_id: e for e in _of_workers(connection, log, workers)}
    known = {event.event_id for event in shown} | found.keys()
    claims = [event for event in shown if isinstance(event.body, events.AgentClaimed)]
    follow = [
        e for e in (*shown, *found.values()) if e.causation_id and e.causation_id not in known
    ]
    decisions = _decisions(connection, log, [event.seq for event in (*claims, *follow)])
    found |= {event.event_id: event for event in decisions}
    if claims:
        orders = chain.from_iterable(_orders(connection, log, e) for e in decisions[-NEAR_MAX:])
        new = [worker for worker in orders if worker not in workers and worker not in own]
        found |= {e.event_id: e for e in _of_workers(connection, log, dict.fromkeys(new))}
    decided = [e for e in shown if isinstance(e.body, events.PoolScalingDecided)]
    for event in decided[-NEAR_MAX:]:
        found |= {end.event_id: end for end in _ends(connection, log, event.seq)}
    return list(found.values())


def _of_workers(connection: Connection, log: LogPosition, ids: Iterable[str]) -> list[Event]:
    found: list[Event] = []
    for some in chunks(ids, WORKERS_READ):
        # Without the pool, of which SQLite would read everything.
        query = select(EVENTS).where(E.subject.in_(some), E.seq <= log.seq)
        query = query.order_by(E.seq.desc()).limit(WORKER_EVENTS_MAX)
        found += _read(connection, log, query)
    return found


def _decisions(connection: Connection, log: LogPosition, places: Iterable[int]) -> list[Event]:
    """The last events of the pool itself before some places in the log, in order."""
    found: dict[int, Event] = {}
    oldest = log.seq + 1
    for seq in sorted(set(places), reverse=True):
        if seq <= oldest:  # else it is known what was before it
            query = _of_subject(log, log.pool, seq).order_by(E.seq.desc())
            read = _read(connection, log, query.limit(DECISIONS))
            found |= {event.seq: event for event in read}
            oldest = read[0].seq if read else 0
    return [found[seq] for seq in sorted(found)]


def _ends(connection: Connection, log: LogPosition, seq: int) -> list[Event]:
    """Workers that were drained or lost just before a decision, which may be why it was made."""
    return _read(connection, log, *_between(log, seq - ENDS_WITHIN, seq, *ENDS))


def _orders(connection: Connection, log: LogPosition, decision: Event) -> list[str]:
    """The workers that a decision has ordered: their orders follow it in the same step."""
    body = decision.body
    if not isinstance(body, events.PoolScalingDecided):
        return []
    number = min(body.desired - body.current, ORDERS_MAX)
    if number <= 0:
        return []
    first = decision.seq + 1
    following = _between(log, first, first + number, events.WorkerRequested)
    return [
        event.subject
        for event in _read(connection, log, *following)
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
