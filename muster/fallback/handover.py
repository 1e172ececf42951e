"""A retired fallback is handed over: what lives in it goes on in the real log, once, or is named.

Its log is never served again, so an agent cannot live in both logs. Whatever ends a hand-over
half-way, the next start submits all of it again; what was accepted before is answered as it was
then. Once all is answered, the folder is renamed.

This is a step of a start on the real Redis, before any agent runs: the fallback's log is opened
once more, what lives in it is listed, and the log is retired. Only then is the real log asked for
anything.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from eventstore.embedded.errors import EmbeddedServerError
from eventstore.errors import ConfigurationError, LogError, LogUnreachable, OutcomeUnknown
from eventstore.keys import CATALOGUE
from eventstore.language.pool_config import PoolConfig
from gateway.fallback import HandoverFailure
from muster.fallback import directory, inventory
from muster.fallback import report as reports
from muster.fallback.directory import Folder
from muster.fallback.inventory import Entry, Result
from muster.fallback.primary_log import PrimaryLog, damage, require_known_log
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
            await require_known_log(self._settings)

    async def run(self, server: RestartableServer, *, intact: bool) -> Sequence[str]:
        """Hand over what the real log can accept; returns what to print.

        `intact`: the real log accepts writes, as far as is known. `server`: starts the fallback's
        own server; a stop that comes before it serves leaves all for the next start.

        Raises `LogError` where Redis became unreachable, `ConfigurationError` for a fallback that
        cannot be opened; the next start continues with either.
        """
        damaged = await damage(self._settings) if intact else {CATALOGUE: LOST}
        reason = damaged.get(CATALOGUE, "")
        if not reason and self._serving.exists:
            reason = await self._retire(server)
        if reason:
            return self._postpone(reason)
        lines: list[str] = []
        for folder in directory.retired(self._data_dir):
            try:
                report = await hand_over(self._settings, folder, damaged)
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
                folder, Report(fallback=folder.identity(), waiting=[postponed("", reason)])
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


async def hand_over(settings: Settings, folder: Folder, damaged: Mapping[str, str]) -> Report:
    """Submit all that a retired fallback lists. Raises `LogError` where the log is unreachable.

    `damaged`: pools whose real log has to be recovered first, and why.
    """
    identity, contents = folder.identity(), inventory.read(folder)
    primary_log = PrimaryLog(settings, identity.log_id)
    blocked, entries = dict(damaged), list[Entry]()
    try:
        await primary_log.start()
        for entry in contents.entries:
            if entry.pool_name not in blocked:
                try:
                    entry = await primary_log.submit(entry)
                except (LogUnreachable, OutcomeUnknown):
                    raise
                except LogError as error:
                    blocked[entry.pool_name] = str(error)
            if entry.alive or entry.result is not Result.REFUSED:  # of others nothing is lost
                entries.append(entry)
    finally:
        await primary_log.close()
    reports.log_entries(entries)
    return Report(
        fallback=identity,
        entries=entries,
        pools=_different_pools(contents.pools, primary_log),
        waiting=[
            postponed(name, blocked[name])
            for name in sorted({e.pool_name for e in entries if not e.result})
        ],
    )


def postponed(pool: str, why: str) -> HandoverFailure:
    return HandoverFailure(pool_name=pool, reason=f"it waits for the next start: {why}")


def _different_pools(
    changed: Mapping[str, PoolConfig | None], primary_log: PrimaryLog
) -> list[HandoverFailure]:
    """Pools that clients changed in the fallback and that differ in the real log."""
    failures = []
    for name, config in changed.items():
        real = primary_log.pool(name)
        if config is None:
            reason = "it was deleted in the fallback, and is still in the real log" if real else ""
        elif real is None:
            reason = "it is not in the real log"
        else:
            same = config == real.config
            reason = "" if same else "its settings were changed in the fallback only"
        if reason:
            failures.append(HandoverFailure(pool_name=name, reason=reason))
    return failures
