"""The newest heartbeats of many agents are rows that nearly always are in their table already."""

from functools import partial

from projector.fold import heartbeats
from projector.store.database import Database
from projector.store.tables import AGENT_LIVE, COPIED_ROWS, run
from tests.databases import PostgresServer


async def test_heartbeats_of_many_agents_are_no_errors_of_the_server(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    """A COPY of rows that are in the table fails, and the server logs that."""
    database, written = Database(postgres_url), 2 * COPIED_ROWS
    database.open()
    await database.prepare()
    server_log = postgres_server.directory / "postgres.log"
    before = server_log.read_text(encoding="utf-8").count("duplicate key")
    try:
        for ts in (1, 2):
            agents = [(f"a{n}", "p", "w", "", ts) for n in range(written)]
            batch = heartbeats.HeartbeatBatch(agents, [], {})
            await database.write(partial(heartbeats.write, batch=batch))
        times = f"SELECT last_heartbeat FROM {{}}{AGENT_LIVE.name}"
        found = await database.read(lambda c: run(c, times).scalars().all())
    finally:
        await database.close()
    assert found == [2] * written
    assert server_log.read_text(encoding="utf-8").count("duplicate key") == before
