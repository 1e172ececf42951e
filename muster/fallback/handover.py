"""A retired fallback is handed over: what lives in it goes on in the real log, once, or is named.

Its log is never served again, so an agent cannot live in both logs. Whatever ends a hand-over
half-way, the next start submits all of it again; what was accepted before is answered as it was
then. Once all is answered, the folder is renamed.
"""

from collections.abc import Mapping

from eventstore.errors import LogError, LogUnreachable, OutcomeUnknown
from eventstore.language.pool_config import PoolConfig
from gateway.fallback import HandoverFailure
from muster.fallback import inventory
from muster.fallback import report as reports
from muster.fallback.directory import Folder
from muster.fallback.inventory import Entry, Result
from muster.fallback.primary_log import PrimaryLog
from muster.fallback.report import Report
from muster.settings.settings import Settings


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
