"""Whether the database of the views can be used, before anything needs it.

What waiting cannot cure ends the start: a refused login, a missing database or grant, a setting
that libpq does not know, another program at that port. What it can is reported in words, and the
projector waits for it. A damaged file is the projector's to replace, see `projector.rebuild`.
"""

import asyncio
import contextlib
import pickle
import subprocess
import sys
from typing import Final
from urllib.parse import urlsplit

from eventstore.connection.protocols import spoken
from eventstore.errors import ConfigurationError
from muster.settings.addresses import redacted
from muster.settings.settings import Settings

CHECK_SECONDS: Final = 8.0
REFUSED: Final = 78
"""Not a code with which Python ends."""


async def database_problem(settings: Settings, *, only_read: bool = False) -> str:
    """Why the database cannot be used now, with its address; empty where it can.

    `only_read`: for a gateway, which does not need tables yet. Raises `ConfigurationError` where
    waiting does not help.
    """
    from projector.store.database import Database, DatabaseError
    from projector.store.failures import Kind, kind, reason
    from projector.store.usable import require_usable

    database = Database(settings.views_url, connections=1)
    database.open()
    source = settings.source("database_url" if settings.database_url else "data_dir")
    unusable = f"{source}: the database {redacted(settings.views_url)} cannot be used"
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await require_usable(database, only_read=only_read)
    except ConfigurationError as error:
        raise ConfigurationError(f"{unusable}: {error}") from None
    except (DatabaseError, OSError) as error:
        why, found = reason(error), kind(error)
        if found is Kind.TRANSIENT and (other := await _foreign(settings.views_url)):
            why, found = f"the server is no PostgreSQL, it speaks {other}", Kind.REFUSED
        if not settings.database_url and isinstance(error, IsADirectoryError):
            found = Kind.DAMAGED  # the file of our own: it is the projector's to replace
        if found is not Kind.REFUSED:
            return f"{redacted(settings.views_url)}: {why}"
        raise ConfigurationError(f"{unusable}: {why}") from None
    finally:
        await database.close()
    return ""


async def database_problem_in_child(settings: Settings) -> str:
    """The same, found out by a process of its own: SQLAlchemy would stay in this one, 18 MB."""
    command = (sys.executable, "-P", "-c", f"from {__name__} import answer; answer()")
    child = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        written, _ = await child.communicate(pickle.dumps(settings))
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
    if child.returncode == REFUSED:
        raise ConfigurationError(written.decode())
    return written.decode() if child.returncode == 0 else "not checked"


def answer() -> None:
    """The body of that process: prints the problem; the exit code is `REFUSED` if it is raised."""
    try:
        problem, code = asyncio.run(database_problem(pickle.load(sys.stdin.buffer))), 0
    except ConfigurationError as error:
        problem, code = str(error), REFUSED
    sys.stdout.buffer.write(problem.encode())
    sys.exit(code)


async def _foreign(url: str) -> str:
    """What speaks at an address that should be PostgreSQL's; empty where nothing else does."""
    parts = urlsplit(url)
    if not parts.hostname:
        return ""
    found = await spoken(parts.hostname, parts.port or 5432)
    return "" if found == "PostgreSQL" else found
