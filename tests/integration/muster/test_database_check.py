"""A start ends at once where the database cannot be used, and says what it waits for elsewhere."""

from pathlib import Path

import psycopg
import pytest

from eventstore.errors import ConfigurationError
from muster.process.database_check import database_problem, database_problem_in_child
from muster.settings.settings import Settings
from projector.queries.views import Views
from projector.store.database import Database
from tests.databases import PostgresServer
from tests.process import free_port


async def problem(url: str) -> str:
    sources = {"database_url": "MUSTER_DATABASE_URL"}
    return await database_problem(Settings(database_url=url, sources=sources))


async def refused(url: str) -> str:
    with pytest.raises(ConfigurationError, match=r"^MUSTER_DATABASE_URL: the database ") as error:
        await problem(url)
    return str(error.value)


async def test_logins_databases_grants_and_settings_that_are_wrong(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    server, _, name = postgres_url.rpartition("/")
    assert 'database "none" does not exist' in await refused(f"{server}/none")
    stranger = postgres_url.replace("postgres@", "nobody:secret@")
    said = await refused(stranger)
    assert 'role "nobody" does not exist' in said
    assert "secret" not in said
    assert 'invalid sslmode value: "bogus"' in await refused(f"{postgres_url}?sslmode=bogus")
    assert "SSL" in await refused(f"{postgres_url}?sslmode=require")
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE reader_of_{name} LOGIN")
    reader = postgres_url.replace("postgres@", f"reader_of_{name}@")
    assert f"permission denied for database {name}" in await refused(reader)


async def test_a_gateway_needs_only_to_read(postgres_url: str) -> None:
    """As the user that deploy/databases.sh creates; the tables may come later."""
    name = f"gateway_of_{postgres_url.rpartition('/')[2]}"
    url = postgres_url.replace("postgres@", f"{name}@")
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        connection.execute("CREATE SCHEMA muster")
        settings = Settings(database_url=url)
        assert await database_problem(settings, only_read=True) == ""
        database = Database(postgres_url)
        database.open()
        await database.prepare()
        await database.close()
        with pytest.raises(ConfigurationError, match="permission denied for schema muster"):
            await database_problem(settings, only_read=True)
        connection.execute(f"GRANT USAGE ON SCHEMA muster TO {name}")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA muster TO {name}")
    assert await database_problem(settings, only_read=True) == ""
    views = Views(url)
    await views.start()
    assert await views.positions() == {}
    await views.stop()


async def test_it_changes_nothing(database_url: str) -> None:
    assert await problem(database_url) == ""
    database = Database(database_url)
    database.open()
    assert not await database.read(database.existing)
    await database.prepare()
    assert await problem(database_url) == ""
    await database.close()


async def test_what_may_still_come_is_named() -> None:
    said = await problem(f"postgresql://me:secret@127.0.0.1:{free_port()}/d")
    assert "connection refused" in said.lower()
    assert "secret" not in said
    assert "no.invalid" in await problem("postgresql://no.invalid/d")


async def test_a_redis_at_its_port_is_named(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projector.store.engines.CONNECT_SECONDS", 2)
    url = f"postgresql://{redis_url.removeprefix('redis://')}"
    assert "no PostgreSQL, it speaks Redis" in await refused(url)


async def test_a_folder_or_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "it is a folder" in await refused(f"sqlite:///{tmp_path}")
    assert "is no folder" in await refused(f"sqlite:///{tmp_path}/file/views.db")


async def test_a_process_of_its_own_finds_the_same(tmp_path: Path) -> None:
    """And leaves nothing of a driver in the one that asks."""
    assert await database_problem_in_child(Settings(data_dir=tmp_path)) == ""
    (tmp_path / "views.db").mkdir()
    settings = Settings(data_dir=tmp_path)
    assert await database_problem_in_child(settings) == await database_problem(settings) != ""
    with pytest.raises(ConfigurationError, match="must be sqlite"):
        await database_problem_in_child(Settings(database_url="mysql://h/d"))
