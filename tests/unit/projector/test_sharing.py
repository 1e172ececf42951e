"""Equal queries are answered once, and cancelled once nobody waits."""

import asyncio
from collections.abc import Callable

import pytest

from projector.queries.sharing import SharedQueries
from tests.waiting import until


class Database:
    """Counts the queries that started, and lets them end when told to."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.go = asyncio.Event()

    async def query(self) -> int:
        self.started += 1
        number = self.started
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return number


@pytest.fixture
async def database() -> Database:
    return Database()


def asked(shared: SharedQueries, key: str, work: Callable[[], object]) -> "asyncio.Task[int]":
    return asyncio.create_task(shared.ask(key, work))  # type: ignore[arg-type]


async def test_who_asks_while_a_query_runs_gets_a_later_one_together_with_others(database) -> None:
    shared = SharedQueries()
    first = [asked(shared, "k", database.query) for _ in range(3)]
    await until(lambda: database.started == 1)
    later = [asked(shared, "k", database.query) for _ in range(3)]
    other = asked(shared, "another", database.query)
    await until(lambda: database.started == 2)
    database.go.set()
    assert await asyncio.gather(*first) == [1, 1, 1]
    assert await asyncio.gather(*later) == [3, 3, 3]
    assert await other == 2


async def test_a_query_is_cancelled_when_the_last_who_waits_has_gone(database) -> None:
    shared = SharedQueries()
    waiting = [asked(shared, "k", database.query) for _ in range(3)]
    await until(lambda: database.started == 1)
    for caller in waiting[:2]:
        caller.cancel()
    await asyncio.wait(waiting[:2])
    assert database.cancelled == 0
    waiting[2].cancel()
    await asyncio.wait(waiting[2:])
    again = asked(shared, "k", database.query)
    await until(lambda: database.started == 2)
    assert database.cancelled == 1
    database.go.set()
    assert await again == 2


async def test_a_query_that_nobody_waits_for_any_more_does_not_start(database) -> None:
    shared = SharedQueries()
    running = asked(shared, "k", database.query)
    await until(lambda: database.started == 1)
    waiting = asked(shared, "k", database.query)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    database.go.set()
    assert await running == 1
    assert await shared.ask("k", database.query) == 2


async def test_an_error_is_raised_to_all_who_wait() -> None:
    shared = SharedQueries()

    async def broken() -> int:
        await asyncio.sleep(0)
        raise OSError("it is gone")

    results = await asyncio.gather(
        *(shared.ask("k", broken) for _ in range(2)), return_exceptions=True
    )
    assert [str(one) for one in results] == ["it is gone"] * 2
