"""`--reload`: workers are replaced where the users' code has changed, if it can be imported."""

import asyncio
from collections.abc import Callable

import structlog
from msgspec import Struct

from eventstore.errors import MusterError
from workers.launch.launchers import Launcher
from workers.launch.pool_processes import HostProcesses
from workers.supervisor import code_watch
from workers.supervisor.options import SupervisorOptions

log = structlog.get_logger("muster.supervisor")


class Reloading(Struct, eq=False):
    """Watches the code of one host. `new_launcher`: its argument are the roles not to import."""

    _options: SupervisorOptions
    _new_launcher: Callable[[tuple[str, ...]], Launcher]
    _processes: HostProcesses
    _wake: Callable[[], None]
    _known: code_watch.Snapshot = {}

    async def start(self) -> None:
        """Note the code as it is imported next."""
        self._known = await asyncio.to_thread(code_watch.snapshot, self._options.app_dir)

    async def run(self) -> None:
        """Returns only by an error."""
        async for files in code_watch.changes(self._options.app_dir, self._known):
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
