"""The handover of a retired fallback: what lives in it goes on in the real log, once, or is named.

Its log is never served again, so an agent cannot live in both logs. Whatever ends a handover
half-way, the next start submits all of it again; what was accepted before is answered as it was
then. Once all is answered, the folder is renamed.

This is a step of a start on the real Redis, before any agent runs: the fallback's log is opened
once more, what lives in it is listed, and the log is retired. Only then is the real log asked for
anything.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from eventstore.atomic_file import read_json, write_json
from eventstore.errors import (
    ConfigurationError,
    EmbeddedServerError,
    LogError,
    LogUnreachable,
    OutcomeUnknown,
)
from eventstore.keys import CATALOGUE
from eventstore.language.catalogue import Pool
from eventstore.language.pool_config import PoolConfig
from gateway.fallback import HandoverFailure, HandoverFailures, read_handover_failures
from muster.fallback import directory, inventory
from muster.fallback.directory import Folder, Identity
from muster.fallback.inventory import Entry, Inventory, Result
from muster.fallback.primary_log import PrimaryLog, damage, require_known_log
from muster.process.restarts import RestartableServer
from muster.settings.addresses import redacted
from muster.settings.settings import Settings

log = structlog.get_logger("muster.fallback")

LOST: Final = "the real log has lost writes, and accepts none until it is recovered"
PRINTED_MAX: Final = 20
RESULTS: Final = {
    Result.HANDED_OVER: "handed over",
    Result.RECORDED: "recorded as ended",
    Result.REFUSED: "not handed over",
    Result.OPEN: "still to be handed over",
}


class Report(Struct, frozen=True, kw_only=True):
    """The agents of a fallback, with what became of each. It is a file of the folder."""

    fallback: Identity
    entries: Sequence[Entry] = ()
    pools: Sequence[HandoverFailure] = ()
    """Pools of the fallback that the real log does not have, or has with other settings."""
    waiting: Sequence[HandoverFailure] = ()
    """What is left for the next start, and why."""

    def failures(self) -> list[HandoverFailure]:
        refused = [
            HandoverFailure(
                reason=entry.reason,
                pool_name=entry.pool_name,
                agent_id=entry.agent_id,
                project_id=entry.request.project_id,
                role_type=entry.request.role_type,
            )
            for entry in self.entries
            if entry.result is Result.REFUSED and entry.alive
        ]
        log_id = self.fallback.log_id
        return [replace(one, log_id=log_id) for one in (*refused, *self.pools, *self.waiting)]

    def lines(self) -> list[str]:
        """For the terminal: the numbers, and by name what was not handed over."""
        counts = Counter(entry.result for entry in self.entries)
        numbers = [f"{counts[result]} {text}" for result, text in RESULTS.items() if counts[result]]
        names = [f"  not handed over: {one.description}" for one in self.failures()]
        more = [f"  and {len(names) - PRINTED_MAX} more"] if len(names) > PRINTED_MAX else []
        summary = ", ".join(numbers) or "nothing lived in it"
        first = f"handover from the fallback for {self.fallback.real}: {summary}"
        return [first, *names[:PRINTED_MAX], *more]


class Handover:
    """First `check`, then `run`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._serving = directory.serving(settings.data_dir)
        self.needed = bool(directory.not_handed_over(settings.data_dir))
        self.server = self._serving.server()

    async def check(self) -> None:
        """To be called before anything writes to the real log. Raises `ConfigurationError`."""
        if self.needed:
            await require_known_log(self._settings)

    async def run(self, server: RestartableServer, *, intact: bool) -> list[str]:
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
        lines: list[str] = []
        if reason:
            for folder in directory.not_handed_over(self._settings.data_dir):
                report = Report(fallback=folder.identity(), waiting=[_postponed("", reason)])
                lines += self._finish(folder, report)
            return lines
        for folder in directory.retired(self._settings.data_dir):
            try:
                report = await hand_over(self._settings, folder, damaged)
            except (LogUnreachable, OutcomeUnknown) as error:
                log.warning("fallback.interrupted", error=str(error))
                raise LogError(
                    f"{redacted(self._settings.redis_url)} became unreachable during the"
                    f" handover from {folder.path}; the next start continues it: {error}"
                ) from error
            lines += self._finish(folder, report)
        return lines

    async def _retire(self, server: RestartableServer) -> str:
        """List what lives in the fallback, and retire its log; why not, where that cannot be."""
        folder = self._serving
        try:
            if not await server.first_start():
                return "this one was stopped"
            await inventory.collect(folder, self.server.url)
        except EmbeddedServerError as error:
            raise ConfigurationError(
                f"the fallback's log in {folder.path} cannot be opened, so what lives in it cannot"
                f" be handed over. Repair it, or move the folder elsewhere: {error}"
            ) from error
        except LogError as error:
            return str(error)
        finally:
            self.server.stop()
        folder.retire()
        return ""

    def _finish(self, folder: Folder, report: Report) -> list[str]:
        """Write down what was done, and put a folder aside that is done with."""
        complete = not report.waiting
        target = folder.done_path() if complete else folder.path
        write_json(folder.path / "report.json", report)
        write_failures(report, self._settings.handover_failures_file, target)
        if complete:
            folder.rename(target)
        log.info("fallback.ended", folder=str(target), complete=complete)
        stored = "the fallback's log and views are stored in"
        end = stored if complete else "it continues at the next start; see"
        return [*report.lines(), f"  {end} {target}"]


async def hand_over(settings: Settings, folder: Folder, damaged: Mapping[str, str]) -> Report:
    """Submit all that a retired fallback lists. Raises `LogError` where the log is unreachable.

    `damaged`: pools whose real log has to be recovered first, and why.
    """
    identity, contents = folder.identity(), read_json(folder.path / inventory.NAME, Inventory)
    read_state = partial(inventory.read_state, folder)
    primary_log = PrimaryLog(settings, identity.log_id, read_state)
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
    _log_answers(entries)
    return Report(
        fallback=identity,
        entries=entries,
        pools=[
            HandoverFailure(pool_name=name, reason=reason)
            for name, config in contents.pools.items()
            if (reason := _difference(config, primary_log.pool(name)))
        ],
        waiting=[
            _postponed(name, blocked[name])
            for name in sorted({e.pool_name for e in entries if not e.result})
        ],
    )


def _postponed(pool: str, why: str) -> HandoverFailure:
    return HandoverFailure(pool_name=pool, reason=f"it waits for the next start: {why}")


def _difference(config: PoolConfig | None, real: Pool | None) -> str:
    """How a pool that clients changed in the fallback differs in the real log, if it does."""
    if config is None:
        return "it was deleted in the fallback, and is still in the real log" if real else ""
    if real is None:
        return "it is not in the real log"
    return "" if config == real.config else "its settings were changed in the fallback only"


def _log_answers(entries: Sequence[Entry]) -> None:
    for entry in entries:
        subject = {"agent_id": entry.agent_id, "pool": entry.pool_name}
        if entry.result is Result.REFUSED:
            log.warning("fallback.not_handed_over", **subject, reason=entry.reason)
        elif entry.result is not Result.OPEN:
            log.info("fallback.handed_over", **subject, result=entry.result.value)


def write_failures(report: Report, path: Path, where: Path) -> None:
    """Add this to what other fallbacks left, in place of what an earlier start wrote of it."""
    before = read_handover_failures(str(path))
    others = [one for one in before.left if one.log_id != report.fallback.log_id] if before else []
    if left := [*others, *report.failures()]:
        content = HandoverFailures(since_ms=int(time.time() * 1000), left=left, report=str(where))
        write_json(path, content)
    else:
        path.unlink(missing_ok=True)
