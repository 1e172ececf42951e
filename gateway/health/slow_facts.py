"""What alerts need and what changes slowly: files of this host, the space on their disk, and what
the server of the database says of itself.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Any, TypeAlias

from gateway.backend.backend import Backend
from gateway.fallback import read_handover_failures
from gateway.wire.problems import Problem
from projector.queries.database_server import DatabaseServer

SlowFacts: TypeAlias = tuple[bool, dict[str, Any]]
"""Whether the database said what it is asked for here, and fields of `Facts`."""


async def read_slow_facts(backend: Backend) -> SlowFacts:
    """Reads all of it."""
    found = await asyncio.to_thread(_files, backend)
    try:
        async with backend.read_views() as views:
            server = await views.server()
    except Problem:
        return False, found
    since = backend.observations.since
    found["server"] = server
    found["unarchived_since_ms"] = since("the archive of the database", _unarchived(server))
    return True, found


def _unarchived(server: DatabaseServer | None) -> str:
    return "behind" if server is not None and server.unarchived else ""


def _files(backend: Backend) -> dict[str, Any]:
    """What is in files of this host."""
    path, found = backend.options.handover_failures_path, dict[str, Any]()
    found["handover"], found["handover_path"] = read_handover_failures(path), path
    if backend.options.database_url.startswith("sqlite"):
        folder = Path(backend.views.name).absolute().parent
        try:
            found["disk_free"] = shutil.disk_usage(folder).free
        except OSError:  # the views cannot be read then, which is another alert
            found["disk_free"] = None
        found["disk_path"] = str(folder)
    return found
