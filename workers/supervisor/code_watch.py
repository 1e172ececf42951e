"""Notices that the users' code has changed, for development.

The folder is polled: that needs no package, and works on every file system. What is looked at is
bounded; hidden folders, environments and caches are left out.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from importlib.util import cache_from_source
from pathlib import Path
from typing import Final, TypeAlias

POLL_SECONDS: Final = 0.5
SETTLED_SECONDS: Final = 0.3
"""Several files that are saved one after the other are one change."""
SETTLING_MAX: Final = 20
FILES_MAX: Final = 20_000
_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "site-packages"})

Snapshot: TypeAlias = dict[str, tuple[int, int]]
"""By path: time of change and size."""


def snapshot(folder: str) -> Snapshot:
    """The Python files of a folder."""
    found: Snapshot = {}
    for place, folders, names in os.walk(folder):
        if "pyvenv.cfg" in names:
            folders.clear()
            continue
        folders[:] = [one for one in folders if one not in _SKIPPED and not one.startswith(".")]
        for name in names:
            if name.endswith(".py") and len(found) < FILES_MAX:
                path = os.path.join(place, name)  # noqa: PTH118  (many times a second)
                try:
                    status = os.stat(path)  # noqa: PTH116  (as above)
                except OSError:
                    continue  # just removed
                found[path] = (status.st_mtime_ns, status.st_size)
    return found


async def changes(folder: str, known: Snapshot) -> AsyncIterator[list[str]]:
    """The names of files that differ from what is known, once none changes any more."""
    while True:
        await asyncio.sleep(POLL_SECONDS)
        current = await asyncio.to_thread(snapshot, folder)
        if current == known:
            continue
        for _ in range(SETTLING_MAX):
            await asyncio.sleep(SETTLED_SECONDS)
            before, current = current, await asyncio.to_thread(snapshot, folder)
            if before == current:
                break
        paths = [path for path, _ in known.items() ^ current.items()]
        known = current
        for path in paths:
            _forget_compiled(path)
        if paths:
            yield sorted({str(Path(path).relative_to(folder)) for path in paths})


def _forget_compiled(path: str) -> None:
    """Python compiles a file again only if its size or the second of its change differs."""
    with contextlib.suppress(OSError, NotImplementedError):  # not ours to remove, or no cache
        Path(cache_from_source(path)).unlink(missing_ok=True)
