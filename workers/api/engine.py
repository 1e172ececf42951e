"""One SQLAlchemy engine per worker process, shared by its agents and opened on first use.

Thousands of agents must not mean thousands of connections. Behind PgBouncer in transaction mode
consecutive transactions may meet different server connections, so statements prepared by psycopg
would be missing there: `prepare_threshold=None` turns that off, whatever the address. SQLAlchemy is
imported when the first agent asks, so that workers whose agents need no database do not load it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from eventstore.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

POOL_SIZE: Final = 5
POOL_OVERFLOW: Final = 5

SQLITE_BUSY_SECONDS: Final = 30
"""How long a transaction waits for another one's, of any worker of this host."""

_DRIVERS: Final = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "sqlite": "sqlite+aiosqlite",
}
"""The asynchronous driver for a URL that names none."""


class Database:
    """Opens the engine when it is first asked for, and closes it in the end."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: AsyncEngine | None = None

    def engine(self) -> "AsyncEngine":
        """The engine. Raises `ConfigurationError` when no database is configured."""
        if self._engine is None:
            self._engine = self._open()
        return self._engine

    async def close(self) -> None:
        """Close every connection. A second call does nothing."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    def _open(self) -> "AsyncEngine":
        if not self._url:
            raise ConfigurationError(
                "context.engine() needs a database: set MUSTER_AGENTS_DATABASE_URL, or"
                " PGBOUNCER_URL where PgBouncer is in front of it"
            )
        from sqlalchemy.engine import make_url
        from sqlalchemy.ext.asyncio import create_async_engine

        url = make_url(self._url)
        url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
        settings: dict[str, Any] = {}
        if url.get_backend_name() == "postgresql":
            settings = {"pool_size": POOL_SIZE, "max_overflow": POOL_OVERFLOW}
            settings["pool_pre_ping"] = True
            if url.get_driver_name() == "psycopg":
                settings["connect_args"] = {"prepare_threshold": None}
        elif url.get_backend_name() == "sqlite":
            settings = {"connect_args": {"timeout": SQLITE_BUSY_SECONDS}}
            decoded = make_url("sqlite:///%20").database == " "  # since SQLAlchemy 2.1
            if url.database and not decoded:
                url = url.set(database=unquote(url.database))
            if url.database and url.database != ":memory:":
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        return create_async_engine(url, **settings)
