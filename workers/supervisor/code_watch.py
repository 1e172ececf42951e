"""`--reload`: workers are replaced where the users' code has changed, if it can be imported.

The folder is polled: that needs no package, and works on every file system. What is looked at is
bounded; hidden folders, environments and caches are left out.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from importlib.util import cache_from_source
from pathlib import Path
from typing import Final, TypeAlias

import structlog
from msgspec import Struct

from eventstore.errors import MusterError
from workers.launch.launchers import Launcher
from workers.launch.pool_processes import HostProcesses
from workers.supervisor.options import SupervisorOptions

POLL_SECONDS: Final = 0.5
SETTLED_SECONDS: Final = 0.3
"""Several files that are saved one after the other are one change."""
SETTLING_MAX: Final = 20
FILES_MAX: Final = 20_000
_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "site-packages"})

Snapshot: TypeAlias = dict[str, tuple[int, int]]
"""By path: time of change and size."""

log = structlog.get_logger("muster.supervisor")


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


class Reloading(Struct, eq=False):
    """Watches the code of one host. `new_launcher`: its argument are the roles not to import."""

    _options: SupervisorOptions
    _new_launcher: Callable[[tuple[str, ...]], Launcher]
    _processes: HostProcesses
    _wake: Callable[[], None]
    _known: Snapshot = {}

    async def start(self) -> None:
        """Note the code as it is imported next."""
        self._known = await asyncio.to_thread(snapshot, self._options.app_dir)

    async def run(self) -> None:
        """Returns only by an error."""
        async for files in changes(self._options.app_dir, self._known):
            launcher = self._new_launcher(self._options.deferred_roles)
            try:
                await self._try_deferred_roles()
                count = await self._processes.renew(launcher)
            except (MusterError, OSError) as error:
                await launcher.stop()
                log.error("code.not_reloaded", files=files, error=str(error))
                continue
            log.info("code.reloaded", files=files, workers=count)
            self._wake()

    async def _try_deferred_roles(self) -> None:
        """Import what only workers import otherwise. Raises `ConfigurationError`."""
        if self._options.deferred_roles:
            trial = self._new_launcher(())
            try:
                await trial.start(lambda _worker_id, _how: None)
            finally:
                await trial.stop()
