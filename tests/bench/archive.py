"""An archive of millions of events: a pool whose workers die all the time.

Every ten events a worker is ordered and lost, an agent comes and goes, and one other agent crashes.
So the pool, and that agent, have a tenth of all events each.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from sqlalchemy import Connection

from eventstore.keys import CATALOGUE
from eventstore.language import events
from eventstore.language.events import encode_body
from eventstore.language.scaling_state import Memory, Observation
from projector.store.database import Database
from projector.store.rows import EventRow
from projector.store.tables import EVENTS, write_rows

POOL = "big"
LOOPING = "01900000-0000-7000-8000-000000000000"
"""The agent that crashes."""
PART = 10_000
"""Groups of events that are archived at a time."""
BEGUN_MS = 1_790_000_000_000
GROUP_MS = 100
STEPS = tuple((8_000 + n, 3) for n in range(16))
DECIDED = events.PoolScalingDecided(
    "pending-spawns", 1, 2, 1, 0, 10, 0, 0, 100, wanted=2, candidates={"load": 2, "buffer": 1},
    observed=Observation(ts=BEGUN_MS, held=10, waiting=1, capacity=10, workers=1),
    memory=Memory(ts=BEGUN_MS, most=STEPS, fewest=STEPS, ordered=STEPS, growths=(1, 2, 3, 4, 5)),
)  # fmt: skip
CRASHED = events.AgentCrashed(
    events.Error("ValueError", "boom", "Traceback\n" * 20), at_ms=1, window_ms=1, failures=3
)
GROUP: tuple[tuple[events.AnyBody, str, int], ...] = (
    (DECIDED, "pool", 0),
    (events.WorkerRequested("h1", 10, BEGUN_MS, "pending-spawns"), "worker", 1),
    (events.WorkerStarted("h1", 7, 1, 10), "worker", 2),
    (events.AgentRequested(role_type="developer", project_id="demo"), "agent", 0),
    (events.AgentClaimed(), "agent", 4),
    (events.AgentStarted(at_ms=BEGUN_MS), "agent", 5),
    (CRASHED, "looping", 0),
    (events.AgentTerminationRequested("requested"), "agent", 0),
    (events.AgentTerminated("requested"), "agent", 8),
    (events.WorkerLost("killed by signal 9"), "worker", 3),
)
"""Of each event its body, whose it is, and which event of the group is its cause."""
NAMES = EventRow.__struct_fields__


def agent_id(group: int) -> str:
    """Of the agent of a group of events."""
    return f"01a00000-0000-7000-8000-{group:012}"


def worker_id(group: int) -> str:
    """Of the worker of a group of events."""
    return f"01b00000-0000-7000-8000-{group:012}"


async def archive(database: Database, count: int) -> None:
    """Archive so many events, and the creation of their pool."""
    created = events.PoolCreated("developer")
    row = _row(CATALOGUE, 1, created, encode_body(created).decode(), POOL, BEGUN_MS)
    await database.write(partial(_write, [row]))
    groups = count // len(GROUP)
    for first in range(0, groups, PART):
        rows = [*_rows(first, min(first + PART, groups))]
        await database.write(partial(_write, rows))


def _write(rows: list[tuple[Any, ...]], connection: Connection) -> None:
    write_rows(connection, EVENTS, NAMES, rows, "skip")


def _rows(first: int, end: int) -> Iterator[tuple[Any, ...]]:
    data = [encode_body(body).decode() for body, _, _ in GROUP]
    for group in range(first, end):
        worker = worker_id(group)
        subjects = {"pool": POOL, "looping": LOOPING, "agent": agent_id(group), "worker": worker}
        for at, (body, subject, cause) in enumerate(GROUP, 1):
            seq, ts = group * len(GROUP) + at, BEGUN_MS + group * GROUP_MS + at
            causation_id = _event_id(POOL, seq - at + cause) if cause else ""
            yield _row(POOL, seq, body, data[at - 1], subjects[subject], ts, worker, causation_id)


def _row(
    pool: str,
    seq: int,
    body: events.AnyBody,
    data: str,
    subject: str,
    ts: int,
    worker: str = "",
    causation_id: str = "",
) -> tuple[Any, ...]:
    """In the order of `EventRow`."""
    envelope = (_event_id(pool, seq), subject, 1, worker, 1, "", causation_id, "", "http")
    return (pool, 1, seq, f"{ts}-0", body.type, body.version, *envelope, ts, data)


def _event_id(pool: str, seq: int) -> str:
    return f"{'01c' if pool else '01d'}00000-0000-7000-8000-{seq:012}"
