"""Alerts from what a real PostgreSQL says of itself, to a login without special rights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from projector.queries.database_server import DatabaseServer
from projector.queries.views import Views
from tests.databases import PostgresServer
from tests.integration.gateway.stage import QUICK, GatewayStage, gateway_stage
from tests.waiting import until

OFTEN = replace(QUICK, alert_seconds=0.05)
SEGMENT_BYTES = 16 * 1024**2


class Archiving(PostgresServer):
    """A server that cannot archive its write-ahead log."""

    SETTINGS = (
        *PostgresServer.SETTINGS,
        "archive_mode=on",
        "archive_command=false",
        "max_prepared_transactions=1",
    )


class Login:
    """A database of a login that may do what its owner may, and the administrator's connection."""

    def __init__(self, server: PostgresServer) -> None:
        self.name = server.create_database()
        self.address = f"127.0.0.1:{server.port}/{self.name}"
        self.admin = psycopg.connect(f"postgresql://postgres@{self.address}", autocommit=True)
        self.run("CREATE ROLE muster LOGIN")
        self.run(f"ALTER DATABASE {self.name} OWNER TO muster")

    def url(self, user: str = "muster") -> str:
        return f"postgresql+psycopg://{user}@{self.address}"

    def run(self, statement: Any) -> None:
        self.admin.execute(statement)


@pytest.fixture
def login(server_directory: Path) -> Iterator[Login]:
    folder = server_directory / "archiving"
    folder.mkdir(mode=0o711)
    server = Archiving(folder, shared=server_directory.parent)
    server.start()
    try:
        found = Login(server)
        with found.admin:
            yield found
    finally:
        server.stop()


async def read(url: str) -> DatabaseServer:
    """What PostgreSQL says to a login."""
    views = Views(url)
    views.open()
    try:
        found = await views.server()
    finally:
        await views.stop()
    assert found is not None
    return found


async def alert(stage: GatewayStage, name: str) -> dict[str, Any]:
    """It, once it is raised."""
    [found] = await until(lambda: stage.alerts(name))
    return found


async def test_what_postgresql_says_of_itself_raises_alerts(
    login: Login, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is seen without special rights, but for the size of the log and other logins'
    transactions."""
    well = await read(login.url())
    assert (well.unarchived, well.slot, well.slot_bytes) == ("", "", 0)
    assert well.wal_bytes_max >= SEGMENT_BYTES
    login.run("SELECT pg_create_physical_replication_slot('old', true)")
    for _ in range(3):
        login.run("SELECT pg_logical_emit_message(false, 'x', 'y')")
        login.run("SELECT pg_switch_wal()")

    async def unarchived() -> DatabaseServer | None:
        found = await read(login.url())
        return found if found.unarchived else None

    seen = await until(unarchived)
    assert seen is not None
    assert len(seen.unarchived) == 24
    assert (seen.slot, seen.wal_bytes) == ("old", seen.slot_bytes)
    assert seen.slot_bytes >= 2 * SEGMENT_BYTES
    listed = (await read(login.url("postgres"))).wal_bytes  # whole files
    assert listed > seen.slot_bytes
    assert listed % SEGMENT_BYTES == 0

    monkeypatch.setattr("gateway.alerts.server_conditions.WAL_FACTOR", 0)
    monkeypatch.setattr("gateway.alerts.server_conditions.WAL_BYTES_MIN", SEGMENT_BYTES)
    async with gateway_stage(redis_url, login.url(), limits=OFTEN) as stage:
        large = await alert(stage, "database-wal-large")
        assert "replication slot 'old'" in large["message"]
        login.run("SELECT pg_drop_replication_slot('old')")
        await until(lambda: _over(stage, "database-wal-large"))
        assert await stage.alerts("database-transaction-old") == []
        for statement in ("BEGIN", "SELECT 1", "PREPARE TRANSACTION 'forgotten'"):
            login.run(statement)
        monkeypatch.setattr("gateway.alerts.server_conditions.TRANSACTION_MS_MAX", -1)
        old = await alert(stage, "database-transaction-old")
        assert "the prepared transaction forgotten" in old["message"]
        monkeypatch.setattr("gateway.alerts.server_conditions.TRANSACTION_MS_MAX", 60_000)
        await until(lambda: _over(stage, "database-transaction-old"))


async def _over(stage: GatewayStage, name: str) -> bool:
    return await stage.alerts(name) == []
