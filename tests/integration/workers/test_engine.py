"""The engine behind `context.engine()`; `tests/e2e/test_engine.py` has agents that use it."""

from pathlib import Path

from sqlalchemy import text

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
