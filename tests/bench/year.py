"""A year of a system whose agents come and go: its events, as an archive has them.

Four pools have a worker a day each; agents come to them in turn, at even times, and end within a
minute. They are of 250 projects, and their label `team` follows from that: 1,000 accounts of usage.
The log can be folded, so the views of it are made by a rebuild, and Redis by a recovery.
"""

from collections.abc import Iterator
from functools import cache, partial
from typing import Any, Final

from sqlalchemy import Connection

from eventstore.keys import CATALOGUE
from eventstore.language import events
from eventstore.language.events import encode_body
from projector.store.database import Database
from projector.store.rows import EventRow
from projector.store.tables import ALERTS, EVENTS, write_rows

DAY_MS: Final = 86_400_000
YEAR_MS: Final = 365 * DAY_MS
POOLS: Final = tuple(f"returns_{number}" for number in range(4))
ROLE: Final = "returns"
PROJECTS: Final = 250
PART: Final = 20_000
"""Events that are archived at a time."""
LIFE_MS: Final = (0, 5, 50, 60_000)
"""When an agent is requested, claimed, started and terminated."""
STARTED_MS, STOPS_MS = 1_000, DAY_MS - 1_000
"""When a worker starts after it was ordered, and when it drains."""
AFTERWARDS: Final[tuple[events.AnyBody, ...]] = (
    events.AgentClaimed(), events.AgentStarted(), events.AgentTerminated("completed"),
)  # fmt: skip
NAMES: Final = EventRow.__struct_fields__


def id_of(at_ms: int, pool: int, number: int) -> str:
    """A UUID of version 7, of that time: agents have even numbers, workers odd ones."""
    text = f"{at_ms:012x}"
    return f"{text[:8]}-{text[8:]}-7000-8{pool:03x}-{number:012x}"


def agents_of(ended: int, pool: int) -> int:
    return ended // len(POOLS) + (pool < ended % len(POOLS))


def agent_of(began_ms: int, ended: int, pool: int, number: int) -> str:
    """The id of one agent of a pool."""
    return id_of(requested_ms(began_ms, ended, pool, number), pool, 2 * number)


def worker_of(began_ms: int, pool: int, day: int) -> str:
    """The id of the worker of a day."""
    return id_of(began_ms + day * DAY_MS, pool, 2 * day + 1)


def requested_ms(began_ms: int, ended: int, pool: int, number: int) -> int:
    """When it was requested: never in the first or last two minutes of a day."""
    at = (number * len(POOLS) + pool) * (YEAR_MS - 365 * 240_000) // ended
    day, within = divmod(at, DAY_MS - 240_000)
    return began_ms + day * DAY_MS + 120_000 + within


async def archive_year(database: Database, ended: int, began_ms: int) -> int:
    """Archive the events of so many agents; returns how many events that are."""
    await database.write(partial(_write, list(_catalogue(began_ms))))
    count = 0
    for pool in range(len(POOLS)):
        part: list[tuple[Any, ...]] = []
        for row in _of_pool(began_ms, ended, pool):
            part.append(row)
            if len(part) == PART:
                await database.write(partial(_write, part))
                count, part = count + len(part), []
        await database.write(partial(_write, part))
        count += len(part)
    return count


async def add_alerts(database: Database, count: int, now_ms: int) -> None:
    """Closed alerts of the last ninety days, a quarter of them of each pool."""
    names = ("alert_id", "name", "severity", "subject", "pool_name", "newest", "message",
             "opened_at", "closed_at")  # fmt: skip
    rows = []
    for number in range(count):
        at, pool = now_ms - 90 * DAY_MS // count * (count - number), POOLS[number % len(POOLS)]
        text = "30 agents failed three times in a row"
        rows.append((id_of(at, 9, number), "crash-looping", "warning", pool, pool, "[]", text, at,
                     at + 60_000))  # fmt: skip
    await database.write(lambda c: write_rows(c, ALERTS, names, rows, "skip"))


def _write(rows: list[tuple[Any, ...]], connection: Connection) -> None:
    write_rows(connection, EVENTS, NAMES, rows, "skip")


def _catalogue(began_ms: int) -> Iterator[tuple[Any, ...]]:
    for number, pool in enumerate(POOLS, 1):
        yield event_row(CATALOGUE, number, events.PoolCreated(ROLE), pool, began_ms, "")


def _of_pool(began_ms: int, ended: int, pool: int) -> Iterator[tuple[Any, ...]]:
    name, seq, number, count = POOLS[pool], 0, 0, agents_of(ended, pool)
    for day in range(365):
        worker, start_ms = worker_of(began_ms, pool, day), began_ms + day * DAY_MS
        of_worker = partial(event_row, name, subject=worker, worker=worker)
        ordered = events.WorkerRequested("h1", 100, start_ms, "pending-spawns")
        yield of_worker(seq=seq + 1, body=ordered, ts=start_ms, cause="")
        started = events.WorkerStarted("h1", 7, 1, 100)
        epoch, seq = day + 1, seq + 2
        of_worker = partial(of_worker, epoch=epoch)
        yield of_worker(
            seq=seq, body=started, ts=start_ms + STARTED_MS, cause=_event_id(name, seq - 1)
        )
        started_seq = seq
        while number < count:
            at = requested_ms(began_ms, ended, pool, number)
            if at >= start_ms + DAY_MS:
                break
            agent, project = agent_of(began_ms, ended, pool, number), number % PROJECTS
            for step, body in enumerate((requested(project), *AFTERWARDS)):
                seq += 1
                cause = _event_id(name, seq - 1) if step else ""
                held = (worker, epoch) if step else ("", 0)
                yield event_row(name, seq, body, agent, at + LIFE_MS[step], cause, *held)
            number += 1
        drains = events.WorkerDraining("worker-age")
        yield of_worker(
            seq=seq + 1, body=drains, ts=start_ms + STOPS_MS, cause=_event_id(name, started_seq)
        )
        seq += 2
        stopped = events.WorkerStopped("worker-age")
        yield of_worker(
            seq=seq, body=stopped, ts=start_ms + STOPS_MS + 1, cause=_event_id(name, seq - 1)
        )


@cache
def requested(project: int) -> events.AgentRequested:
    labels = {"team": f"team-{project % 5}"}
    return events.AgentRequested(role_type=ROLE, project_id=f"project-{project:03}", labels=labels)


OFTEN: Final[tuple[events.AnyBody, ...]] = (*map(requested, range(PROJECTS)), *AFTERWARDS)
_encoded: Final = {id(body): encode_body(body).decode() for body in OFTEN}
"""Of the bodies that there are again and again, which stay as long as this module."""


def event_row(
    pool: str,
    seq: int,
    body: events.AnyBody,
    subject: str,
    ts: int,
    cause: str,
    worker: str = "",
    epoch: int = 0,
) -> tuple[Any, ...]:
    """In the order of `EventRow`."""
    of_agent = body.type.startswith("agent.")
    data = _encoded.get(id(body)) or encode_body(body).decode()
    envelope = (_event_id(pool, seq), subject, int(of_agent), worker, epoch, "", cause, "", "http")
    return (pool, 1, seq, f"{ts}-0", body.type, body.version, *envelope, ts, data)


def _event_id(pool: str, seq: int) -> str:
    number = POOLS.index(pool) + 1 if pool else 0
    return f"01c00000-0000-7000-8{number:03x}-{seq:012x}"
