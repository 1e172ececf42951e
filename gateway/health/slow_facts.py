"""What alerts need of this host, and what changes slowly: files, and the space on their disk."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

from gateway.backend.backend import Backend
from gateway.fallback import read_handover_failures


async def read_slow_facts(backend: Backend) -> dict[str, Any]:
    """Fields of `Facts`."""
    return await asyncio.to_thread(_files, backend)


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
