"""The change-over as a step of a start on the real Redis, before any agent runs.

The fallback's log is opened once more, what lives in it is listed, and the log is retired: from
then on it is never served again. Only then is the real log asked for anything.
"""

from collections.abc import Sequence
from typing import Final

import structlog

from eventstore.embedded.errors import EmbeddedServerError
from eventstore.errors import ConfigurationError, LogError, LogUnreachable, OutcomeUnknown
from eventstore.keys import CATALOGUE
from muster.fallback import directory, handover, inventory, primary_state
from muster.fallback import report as reports
from muster.fallback.directory import Folder
from muster.fallback.report import Report
from muster.process.restarts import RestartableServer
from muster.settings.addresses import redacted
from muster.settings.settings import Settings

log = structlog.get_logger("muster.fallback")

LOST: Final = "the real log has lost writes, and accepts none until it is recovered"


class Handover:
    """First `check`, then `run`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._data_dir = settings.data_dir
        self._serving = directory.serving(settings.data_dir)
        self.needed = bool(directory.not_handed_over(settings.data_dir))
        self.server = self._serving.server()

    async def check(self) -> None:
        """To be called before anything writes to the real log. Raises `ConfigurationError`."""
        if self.needed:
            await primary_state.require_known_log(self._settings)

    async def run(self, server: RestartableServer, *, intact: bool) -> Sequence[str]:
        """Hand over what the real log can accept; returns what to print.

        `intact`: the real log accepts writes, as far as is known. `server`: starts the fallback's
        own server; a stop that comes before it serves leaves all for the next start.

        Raises `LogError` where Redis became unreachable, `ConfigurationError` for a fallback that
        cannot be opened; the next start continues with either.
        """
        damaged = await primary_state.damage(self._settings) if intact else {CATALOGUE: LOST}
        reason = damaged.get(CATALOGUE, "")
        if not reason and self._serving.exists:
            reason = await self._retire(server)
        if reason:
            return self._postpone(reason)
        lines: list[str] = []
        for folder in directory.retired(self._data_dir):
            try:
                report = await handover.hand_over(self._settings, folder, damaged)
            except (LogUnreachable, OutcomeUnknown) as error:
                log.warning("fallback.interrupted", error=str(error))
                raise LogError(
                    f"{redacted(self._settings.redis_url)} became unreachable during the"
                    f" change-over from {folder.path}; the next start continues it: {error}"
                ) from error
            lines += self._finish(folder, report)
        return lines

    async def _retire(self, server: RestartableServer) -> str:
        """List what lives in the fallback, and retire its log; why not, where that cannot be."""
        folder = self._serving
        try:
            if not await server.first_start():
                return "this one was stopped"
            contents = await inventory.collect(folder, self.server.url)
        except EmbeddedServerError as error:
            raise ConfigurationError(
                f"the fallback's log in {folder.path} cannot be opened, so what lives in it cannot"
                f" be handed over. Repair it, or move the folder elsewhere: {error}"
            ) from error
        except LogError as error:
            return str(error)
        finally:
            self.server.stop()
        inventory.write(contents, folder)
        folder.retire()
        return ""

    def _postpone(self, reason: str) -> list[str]:
        return [
            line
            for folder in directory.not_handed_over(self._data_dir)
            for line in self._finish(
                folder,
                Report(fallback=folder.identity(), waiting=[handover.postponed("", reason)]),
            )
        ]

    def _finish(self, folder: Folder, report: Report) -> list[str]:
        """Write down what was done, and put a folder aside that is done with."""
        target = folder.done_path() if report.done else folder.path
        reports.write(report, folder)
        reports.write_not_handed_over(report, self._settings.handover_failures_file, target)
        if report.done:
            folder.rename(target)
        log.info("fallback.ended", folder=str(target), complete=report.done)
        if not report.done:
            return [*report.lines(), f"  it continues at the next start; see {target}"]
        return [*report.lines(), f"  the fallback's log and views are stored in {target}"]
