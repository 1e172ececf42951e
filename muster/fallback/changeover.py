"""The change-over as a step of a start on the real Redis, with the fallback's own server beside it.

That server writes to disk with every step: what it says has ended is never found alive again.
"""

from collections.abc import Sequence
from typing import Final

import structlog

from eventstore.embedded.server import EmbeddedServerError
from eventstore.errors import ConfigurationError, LogError, LogUnreachable, OutcomeUnknown
from eventstore.keys import CATALOGUE
from gateway.fallback import HandoverFailure
from muster.fallback import handover, primary_state
from muster.fallback.directory import Folder
from muster.fallback.report import Report
from muster.process.restarts import RestartableServer
from muster.settings.addresses import redacted
from muster.settings.settings import Settings

log = structlog.get_logger("muster.fallback")

LOST: Final = "the real log has lost writes, and takes none until it is recovered"


class Handover:
    """In this order: `check`, `run`, the server's end, `conclude`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = Folder(settings.data_dir)
        self._report: Report | None = None
        self.needed = self._folder.used
        self.server = self._folder.server(appendfsync="always")

    async def check(self) -> None:
        """To be called before anything writes to the real log. Raises `ConfigurationError`."""
        if self.needed:
            await primary_state.require_known_log(self._settings)

    async def run(self, server: RestartableServer, *, intact: bool) -> None:
        """Hand over what the real log can take. `whole`: it takes writes, as far as is known.

        `server`: how the fallback's own is started; an end that comes before it serves leaves all
        for the next start.

        Raises `LogError` where Redis went away, `ConfigurationError` for a fallback that cannot be
        opened; nothing is half done then.
        """
        damaged = await primary_state.damage(self._settings) if intact else {CATALOGUE: LOST}
        if reason := damaged.get(CATALOGUE):
            return self._postpone(reason)
        try:
            if not await server.first_start():
                return self._postpone("this one was stopped")
        except EmbeddedServerError as error:
            raise ConfigurationError(
                f"the fallback's log in {self._folder.path} cannot be opened, so what lives in it"
                f" cannot be handed over. Mend it, or move the folder away: {error}"
            ) from error
        try:
            self._report = await handover.hand_over(
                self._settings, self._folder, self.server.url, damaged
            )
        except (LogUnreachable, OutcomeUnknown) as error:
            log.warning("fallback.interrupted", error=str(error))
            raise LogError(
                f"{redacted(self._settings.redis_url)} went away during the change-over from"
                f" {self._folder.path}; the next start goes on with it: {error}"
            ) from error

    def _postpone(self, reason: str) -> None:
        postponed = HandoverFailure(reason=f"it waits for the next start: {reason}")
        self._report = Report(fallback=self._folder.identity(), entries=(), waiting=[postponed])

    def finish(self) -> Sequence[str]:
        """Once the server has ended: what to say."""
        assert self._report is not None, "not run"
        where = handover.finish(self._report, self._settings, self._folder)
        log.info("fallback.ended", folder=str(where), complete=self._report.done)
        if not self._report.done:
            return [*self._report.lines(), f"  it goes on at the next start; see {where}"]
        return [*self._report.lines(), f"  the fallback's log and views are kept in {where}"]
