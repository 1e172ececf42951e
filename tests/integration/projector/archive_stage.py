"""An archive for tests, and the views that a projector made of it event by event."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec.structs import astuple
from sqlalchemy import Connection, text

from projector.fold.projection import Projection
from projector.history.history import History
from projector.history.positions import AsOf
from projector.queries import selects
from projector.store.database import Database
from projector.store.rows import AgentFilter, EventRow
from projector.store.tables import EVENTS, SERVING, write_rows

EVERY = AgentFilter()
LIVING = AgentFilter(ended=False)


class ArchiveStage:
    """An archive, and the views that a projector made of it event by event."""

    def __init__(self, database: Database, history: History) -> None:
        self.database, self.history = database, history

    async def archive(self, rows: Sequence[EventRow]) -> None:
        names, values = EventRow.__struct_fields__, [astuple(row) for row in rows]
        await self.database.write(lambda c: write_rows(c, EVENTS, names, values, "skip"))

    async def project(self, rows: Sequence[EventRow]) -> list[dict[str, Any]]:
        """Fold them one by one; returns what the views answered after each of them."""
        return await self.database.write(lambda c: self._project(c, rows, answer_now))

    async def fold(self, rows: Sequence[EventRow]) -> None:
        """The same without answers."""
        await self.database.write(lambda c: self._project(c, rows, lambda _: {}))

    def _project(
        self,
        connection: Connection,
        rows: Sequence[EventRow],
        answer: Callable[[Connection], dict[str, Any]],
    ) -> list[dict[str, Any]]:
        projection, answers = Projection(SERVING, archives=True), []
        projection.load(connection)
        for row in rows:
            projection.add_pools()
            projection.learn_generation(row.pool, row.generation)
            projection.mark_committed(projection.write(connection, row.pool, [row]))
            assert projection.positions[row.pool].seq == row.seq
            answers.append(answer(connection))
        return answers

    async def answer(self, asked: AsOf) -> dict[str, Any]:
        """What `answer_now` reads, of a point in time."""
        history = self.history
        point = await history.point_in_time(asked)
        return {
            "agents": list(await history.agents(point, EVERY, limit=1000)),
            "living": list(await history.agents(point, LIVING, limit=1000)),
            "workers": list(await history.workers(point, ended=True)),
            "alive": list(await history.workers(point)),
            "pools": list(await history.pools(point)),
        }

    async def sql_rows(self, statement: str) -> list[Any]:
        prefixed = statement.replace("{}", self.database.prefix)
        return await self.database.read(lambda c: [*map(tuple, c.execute(text(prefixed)))])

    async def sql(self, statement: str) -> None:
        prefixed = statement.replace("{}", self.database.prefix)
        await self.database.write(lambda c: c.execute(text(prefixed)))


def answer_now(connection: Connection) -> dict[str, Any]:
    return {
        "agents": selects.agents(connection, EVERY, after="", limit=1000),
        "living": selects.agents(connection, LIVING, after="", limit=1000),
        "workers": selects.workers(connection, None, ended=True, after="", limit=None),
        "alive": selects.workers(connection, None, ended=False, after="", limit=None),
        "pools": selects.pools(connection),
    }


@asynccontextmanager
async def open_archive(url: str, *, seconds: float = 10.0) -> AsyncIterator[ArchiveStage]:
    database, history = Database(url), History(url, seconds=seconds)
    database.open()
    await database.prepare()
    history.database.open()
    try:
        yield ArchiveStage(database, history)
    finally:
        await history.database.close()
        await database.close()


def at(pool: str, seq: int, generation: int | None = None) -> AsOf:
    return AsOf(events={pool: (generation, seq)})
