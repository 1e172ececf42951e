"""Explanations are read from the archive: of random histories, cut or whole, with their causes."""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection

from eventstore.keys import CATALOGUE
from eventstore.language import events
from projector.explain.explain import explain
from projector.explain.reading import end_of, read_story
from projector.explain.story import Story
from projector.history.positions import position_at_event
from projector.store.rows import EventRow
from tests.bench.archive import LOOPING, agent_id, archive, worker_id
from tests.bench.archive import POOL as BIG
from tests.histories import History
from tests.integration.projector.archive_stage import ArchiveStage, open_archive

POOL = "alpha"


async def story_of(
    stage: ArchiveStage,
    subject: str,
    limit: int,
    seq: int | None = None,
    *,
    of_pool: bool = False,
    total: int | None = None,
) -> Story:
    def read(connection):
        log = end_of(connection, POOL)
        if seq is not None:
            log = position_at_event(connection, POOL, seq)
        catalogue = end_of(connection, CATALOGUE) if of_pool else None
        return read_story(connection, subject, log, catalogue, limit=limit, total=total)

    return await stage.database.read_with_retry(read)


def valid(rows: Sequence[EventRow], pool: str, subject: str) -> list[EventRow]:
    """Events of a subject that no recovery has superseded."""
    newest: dict[int, EventRow] = {}
    for row in rows:
        if row.pool == pool:
            newest = {seq: known for seq, known in newest.items() if seq < row.seq}
            newest[row.seq] = row
    return [row for row in newest.values() if row.subject == subject]


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_first_and_the_last_events_are_shown_and_the_others_counted(database_url, seed):
    rows = History(seed).write(400)
    async with open_archive(database_url) as stage:
        await stage.archive(rows)
        agents = {r.subject for r in rows if r.pool == POOL and r.type == "agent.requested"}
        subjects = sorted(agents)
        for subject in [*random.Random(seed).sample(subjects, 8), POOL]:
            of_pool = subject == POOL
            own = valid(rows, POOL, subject)
            if of_pool:
                changes = list(valid(rows, CATALOGUE, subject))
                own = sorted([*own, *changes], key=lambda row: (row.ts, row.seq))
            for limit in (1, 3, 1000):
                total = None if of_pool else len(own)
                story = await story_of(stage, subject, limit, of_pool=of_pool, total=total)
                shown = [event.event_id for event in (*story.first, *story.last)]
                ids = [row.event_id for row in own]
                expected = ids[-limit:] if len(ids) <= limit else [ids[0], *ids[-limit:]]
                assert shown == expected, (subject, limit)
                assert story.left_out == len(ids) - len(shown)
                assert len(explain(story)) == len(shown)


async def test_a_story_ends_at_the_point_in_time(database_url):
    rows = History(3).write(300)
    async with open_archive(database_url) as stage:
        await stage.archive(rows)
        own = [r for r in valid(rows, POOL, POOL) if r.type == events.PoolScalingDecided.type]
        middle = own[len(own) // 2]
        story = await story_of(stage, POOL, 1000, middle.seq)
        assert [e.event_id for e in story.last] == [r.event_id for r in own if r.seq <= middle.seq]


async def test_a_long_archive_is_not_read_through(tmp_path):
    """Counted in steps of SQLite's engine: time depends on the machine."""
    steps = {}
    for count in (1_000, 20_000):
        async with open_archive(f"sqlite:///{tmp_path / str(count)}.db") as stage:
            await archive(stage.database, count)
            for subject in (agent_id(20), worker_id(20), LOOPING):
                steps[subject, count] = await stage.database.read(partial(_steps, subject))
    for subject in (agent_id(20), worker_id(20), LOOPING):
        assert steps[subject, 20_000] < 1.5 * steps[subject, 1_000], subject


def _steps(subject: str, connection: Connection) -> int:
    """How many hundred steps it takes to read a story."""
    counted: list[None] = []
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: counted.append(None), 100)
    read_story(connection, subject, end_of(connection, BIG), limit=20, total=1_000)
    driver.set_progress_handler(None, 0)
    return len(counted)


async def test_events_that_a_recovery_superseded_are_left_out(database_url):
    rows = History(5).write(300)
    own = [row for row in rows if row.pool == POOL]
    lost = own[len(own) // 2 :]
    again = [replace(r, generation=2, event_id=f"again-{r.seq}") for r in lost[: len(lost) // 2]]
    every = [*rows, *again]
    async with open_archive(database_url) as stage:
        await stage.archive(every)
        for subject in {POOL, *(row.subject for row in again if row.type.startswith("agent."))}:
            expected = [row.event_id for row in valid(every, POOL, subject)]
            story = await story_of(stage, subject, 1000)
            assert [event.event_id for event in (*story.first, *story.last)] == expected
            cut = await story_of(stage, subject, 1)
            assert cut.left_out == max(len(expected) - 2, 0)
