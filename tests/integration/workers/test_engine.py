"""`context.engine()`: one engine per worker, on SQLite, PostgreSQL and through PgBouncer."""

import asyncio
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.worker_pool import eventually, worker_pool
from workers.api.agent import Agent, Context
from workers.api.engine import Database


async def test_urls_without_a_driver_get_an_asynchronous_one(postgres_url: str, tmp_path: Path):
    """People write `postgresql://` and `sqlite:///`."""
    for url in (postgres_url.replace("+psycopg", ""), f"sqlite:///{tmp_path / 'agents.db'}"):
        database = Database(url)
        async with database.engine().connect() as connection:
            assert (await connection.execute(text("select 1"))).scalar() == 1
        assert database.engine() is database.engine()
        await database.close()
        await database.close()


class Writer(Agent):
    """Writes with the same statement again and again, as psycopg would prepare it."""

    async def run(self, context: Context) -> None:
        for number in range(20):
            async with context.engine().begin() as connection:
                await connection.execute(
                    text("insert into written values (:agent, :number)"),
                    {"agent": context.agent_id, "number": number},
                )


async def test_thirty_agents_write_through_pgbouncer_and_nothing_is_lost(
    redis_url: str, pgbouncer_url: str, postgres_url: str, tmp_path: Path
):
    """Transaction mode: consecutive transactions may meet different server connections."""
    direct = create_async_engine(postgres_url)
    async with direct.begin() as connection:
        await connection.execute(text("create table written (agent text, number integer)"))
    async with worker_pool(redis_url, tmp_path) as pool:
        for _ in range(3):
            await pool.worker(Writer, engine_url=pgbouncer_url, through_pgbouncer=True)
        ids = await asyncio.gather(*(pool.spawn() for _ in range(30)))

        async def ended() -> bool:
            return all([(await pool.state(i)).ended for i in ids])

        await eventually(ended, timeout=40)
        types = await pool.types()
        assert types.count("agent.terminated") == 30
        assert "agent.crashed" not in types
    async with direct.connect() as connection:
        count = text("select count(*), count(distinct (agent, number)) from written")
        assert tuple((await connection.execute(count)).one()) == (600, 600)
    await direct.dispose()
