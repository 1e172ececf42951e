"""Events after a position, wherever they are: in the archive, read as one log, or the stream."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace
from sqlalchemy import Connection, insert

from eventstore.keys import Keys
from eventstore.log.reader import Entry
from eventstore.log.replies import LogHead
from projector.intake import archive, source
from projector.intake.archive import EventRange
from projector.intake.entries import entry_of, read_entry
from projector.queries.views import Views
from projector.store.database import Database
from projector.store.rows import EventRow
from projector.store.tables import EVENTS

POOL = "p"


def row(seq: int, stream_id: str, generation: int = 1) -> EventRow:
    texts = dict.fromkeys(("worker_id", "correlation_id", "causation_id", "traceparent"), "")
    return EventRow(
        pool=POOL, generation=generation, seq=seq, stream_id=stream_id, type="agent.started",
        version=1, event_id=f"{generation}.{seq}", subject="a", incarnation=1, epoch=0,
        actor="test", ts=int(stream_id.partition("-")[0]), data='{"x":"✗"}', **texts,
    )  # fmt: skip


def rows_of(steps: list[int], *, first: int = 1, ms: int = 1000, **more: Any) -> list[EventRow]:
    """Rows in order; a step of 0 ms is another event of the same millisecond."""
    found: list[EventRow] = []
    count = 0
    for seq, step in enumerate(steps, first):
        count = count + 1 if step == 0 and found else 0
        ms += step
        found.append(row(seq, f"{ms}-{count}", **more))
    return found


def put(rows: list[EventRow]) -> Callable[[Connection], None]:
    def write(connection: Connection) -> None:
        connection.execute(EVENTS.delete())
        connection.execute(insert(EVENTS), [asdict(one) for one in rows])

    return write


def names(rows: Any) -> list[str]:
    return [one.event_id for one in rows]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    database.open()
    await database.prepare()
    yield database
    await database.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


@pytest.fixture
async def file(views_url: str) -> AsyncIterator[Database]:
    async with opened(views_url) as database:
        yield database


steps = st.lists(st.integers(0, 3), min_size=1, max_size=30)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(old=steps, new=steps, lost=st.integers(0, 8), count=st.integers(1, 40), at=st.floats(0, 1))
async def test_a_page_is_what_a_plain_sort_returns_over_generations(
    file: Database, old: list[int], new: list[int], lost: int, count: int, at: float
) -> None:
    """Generation 2 took over below the end of generation 1: what lies above that was lost."""
    await require_sorted(file, old, new, lost, count, at)


async def test_pages_are_sorted_by_both_databases(database: Database) -> None:
    for at in (0.0, 0.4, 0.8, 1.0):
        await require_sorted(database, [1, 0, 0, 2, 3], [0, 1, 0], 2, 3, at)


async def test_where_archived_logs_start_and_end(database: Database) -> None:
    """The end is that of the newest generation, also where an older one has gone further."""
    rows = [*rows_of([1, 1, 1, 1], first=3), *rows_of([1], first=5, generation=2)]
    assert await database.read(source.archived) == {}
    await database.write(put([*rows, *(replace(one, pool="q") for one in rows[:1])]))
    ends = source.Archived(LogHead(1, 3), LogHead(2, 5))
    only = source.Archived(LogHead(1, 3), LogHead(1, 3))
    assert await database.read(source.archived) == {"p": ends, "q": only}
    assert await database.read(lambda c: source.archived(c, ["q", "none"])) == {"q": only}


async def require_sorted(
    database: Database, old: list[int], new: list[int], lost: int, count: int, at: float
) -> None:
    before = rows_of(old)
    lost = min(lost, len(before) - 1)
    last_ms = before[-1].ts + 1
    later = rows_of(new, first=len(before) - lost + 1, ms=last_ms, generation=2)
    log = [*before[: len(before) - lost], *later]
    place = int(at * len(log))
    stream_id = log[place - 1].stream_id if place else "0"
    await database.write(put([*before, *later]))
    page = await database.read(lambda c: archive.after(c, POOL, stream_id, count=count))
    assert names(page) == names(log[place : place + count])
    if place < len(log):
        back = await database.read(
            lambda c: archive.before(c, POOL, log[place].stream_id, count=count)
        )
        assert names(back) == names(log[max(place - count, 0) : place][::-1])
        seq = log[place].seq
        found = await database.read(lambda c: archive.id_before(c, POOL, seq))
        assert found == (log[place - 1].stream_id if place else "0")
        until = log[min(place + 2, len(log) - 1)].stream_id
        bounded = await database.read(
            lambda c: archive.after(c, POOL, stream_id, until=until, count=count)
        )
        assert names(bounded) == names(log[place : place + min(count, 3)])


async def test_another_pool_and_an_empty_archive_have_nothing(database: Database) -> None:
    await database.write(put(rows_of([1, 1])))
    assert await database.read(lambda c: archive.after(c, "q", "0", count=5)) == []
    assert await database.read(lambda c: archive.before(c, "q", "+", count=5)) == []
    assert await database.read(lambda c: archive.id_before(c, "q", 5)) == "0"


def test_an_archived_event_becomes_the_entry_that_it_was() -> None:
    [one] = rows_of([5])
    assert read_entry(POOL, 1, entry_of(one)) == one
    fields = entry_of(one)[1]
    assert fields[fields.index(b"epoch") + 1] == b""


class Stream:
    """A stream whose oldest entries are trimmed at a point that the test chooses."""

    def __init__(self, rows: list[EventRow]) -> None:
        self.rows = rows
        self.reads = 0
        self.trim: dict[int, int] = {}
        """How many go after so many reads."""

    async def range(self, stream: str, first: str, last: str, *, count: int) -> list[Entry]:
        assert stream == "pool:{p}:events"
        beyond = archive.id_order(first.lstrip("(-") or "0")
        chosen = [r for r in self.rows if archive.id_order(r.stream_id) > beyond]
        chosen = [r for r in chosen if archive.id_order(r.stream_id) <= archive.id_order(last)]
        self.reads += 1
        gone = min(self.trim.get(self.reads, 0), len(self.rows) - 1)  # the last one stays
        del self.rows[:gone]
        return [entry_of(r) for r in chosen[:count]]


async def test_a_reader_gets_every_event_once_however_trimming_crosses_it(tmp_path: Path) -> None:
    """Some are trimmed before, some between any two reads of the stream."""
    log = rows_of([1, 0, 2, 1, 0, 0, 4, 1, 1])
    url = f"sqlite:///{tmp_path / 'views.db'}"
    views = Views(url)
    await views.start()
    await views._database.write(put(log))
    for gone, when in product(range(9), range(1, 9)):
        stream = Stream(log[gone // 2 :])
        stream.trim[when] = gone
        reader = EventRange(Keys(), stream.range, views.archived)
        seen: list[str] = []
        at = "0"
        while page := await reader.after(POOL, at, count=2):
            seen += [read_entry(POOL, 1, entry).event_id for entry in page]
            at = page[-1][0].decode()
        assert seen == names(log), (gone, when)
    await views.stop()


async def test_without_an_archive_the_stream_is_all_there_is() -> None:
    log = rows_of([1] * 5)
    reader = EventRange(Keys(), Stream(log[3:]).range, None)
    page = await reader.after(POOL, "0", count=10)
    assert [read_entry(POOL, 1, entry) for entry in page] == log[3:]
