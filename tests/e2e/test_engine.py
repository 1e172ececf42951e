"""`context.engine()` as an agent's author meets it: by PGBOUNCER_URL, through a real PgBouncer."""

import asyncio
from pathlib import Path

import psycopg

from tests.chaos.judge import judge
from tests.e2e.conftest import CONFIG
from tests.e2e.system import System
from tests.waiting import until

AGENTS, TRANSACTIONS = 20, 10

WRITING = f"""\
from sqlalchemy import text

from muster import Agent


class Actor(Agent):
    async def run(self, context):
        for number in range({TRANSACTIONS}):
            async with context.engine().begin() as connection:
                await connection.execute(
                    text("INSERT INTO written VALUES (:agent, :number)"),
                    {{"agent": context.agent_id, "number": number}},
                )
                await connection.execute(text("UPDATE total SET written = written + 1"))
"""


async def test_twenty_agents_write_through_pgbouncer_and_nothing_is_lost(
    project: Path, postgres_url: str, pgbouncer_url: str
) -> None:
    """Transaction mode: one agent's transactions meet different connections of the server."""
    (project / "acting.py").write_text(WRITING)
    direct = postgres_url.replace("+psycopg", "")
    with psycopg.connect(direct) as connection:
        connection.execute("CREATE TABLE written (agent text, number int)")
        connection.execute("CREATE TABLE total (written int)")
        connection.execute("INSERT INTO total VALUES (0)")
    async with System(project, config=CONFIG, env={"PGBOUNCER_URL": pgbouncer_url}) as system:
        spawned = await asyncio.gather(*(system.spawn() for _ in range(AGENTS)))
        ids = {agent["agent_id"] for agent in spawned}

        async def all_ended() -> bool:
            ended = await system.agents("limit=1000&include_ended=true")
            return {a["agent_id"] for a in ended if a["reason"] == "completed"} == ids

        await until(all_ended, timeout=30)
        assert judge(system.redis_url, acknowledged=ids, views=system.views()) == []
        spied = [process.environ() for process in await system.workers()]
        assert all("MUSTER_DATABASE_URL" not in environment for environment in spied)
        assert all(environment["PGBOUNCER_URL"] == pgbouncer_url for environment in spied)
    with psycopg.connect(direct) as connection:
        count = "SELECT count(*), count(DISTINCT (agent, number)) FROM written"
        assert connection.execute(count).fetchone() == (AGENTS * TRANSACTIONS,) * 2
        total = connection.execute("SELECT written FROM total").fetchone()
    assert total == (AGENTS * TRANSACTIONS,)
