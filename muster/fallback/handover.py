"""The change-over: what lived in the fallback goes on in the real log, once, or is named.

    for every agent:  ended in the fallback, with its entry in the outbox   (one step)
                      asked for in the real log, under an id of its own     (one step, repeatable)
                      the outcome noted beside the entry
    at the end:       the fallback's archive completed, the report written, the folder renamed

`muster up` does this while nothing of either log runs on this host, with the data folder's lock in
hand. Whatever ends it half-way, the next start goes on: an agent that is still alive in the
fallback was never asked for in the real log; one that was ended there is asked for again, which
the real log answers with what it did the first time. Where Redis is away again at that next start,
the fallback serves what is still alive in it, and nothing else.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from eventstore.errors import LogError, LogUnreachable, OutcomeUnknown
from eventstore.keys import CATALOGUE
from eventstore.language.agents import Agent
from eventstore.language.catalogue import Pool
from gateway.fallback import HandoverFailure
from muster.fallback import report as reports
from muster.fallback.asking import gather_bounded
from muster.fallback.directory import Folder
from muster.fallback.fallback_log import FallbackLog
from muster.fallback.outbox import Entry, Key, Result, request_of
from muster.fallback.primary_log import PrimaryLog
from muster.fallback.report import Report
from muster.settings.settings import Settings
from projector.queries.views import Views
from projector.service.active import ProjectorOptions
from projector.service.projector import Projector

ARCHIVE_SECONDS: Final = 60.0


async def hand_over(
    settings: Settings, folder: Folder, fallback_url: str, damaged: Mapping[str, str]
) -> Report:
    """Hand over, or name, all that lives in the fallback. Raises `LogError` where a log is away.

    `damaged`: pools whose real log has to be recovered first, and why.
    """
    fallback_log = FallbackLog(fallback_url)
    primary_log = PrimaryLog(
        settings.redis_url,
        settings.key_prefix,
        folder.identity().log_id,
        settings.roles,
        settings.retention,
    )
    views = Views(folder.views_url)
    try:
        await views.start()
        await primary_log.start()
        pools = await fallback_log.pools()
        refusals = {
            name: damaged.get(name) or await _hand_over_pool(fallback_log, primary_log, views, name)
            for name in pools
        }
        waiting = [_postponed(name, why) for name, why in refusals.items() if why]
        entries = [entry for name in pools for entry in await fallback_log.outbox(name)]
        reports.log_entries(entries)
        left = _pools_not_handed_over(
            pools, await fallback_log.pools_changed_by_clients(), primary_log
        )
        archived = bool(waiting) or await _archive(fallback_log, views, folder, fallback_url, pools)
        return Report(
            fallback=folder.identity(),
            entries=entries,
            pools=left,
            waiting=waiting,
            archived=archived,
        )
    finally:
        await views.stop()
        await primary_log.close()
        await fallback_log.close()


def finish(report: Report, settings: Settings, folder: Folder) -> Path:
    """Once the fallback's server has ended: write everything down, and retire the folder."""
    target = folder.archive_path() if report.done else folder.path
    reports.write(report, folder)
    reports.write_not_handed_over(report, settings.handover_failures_file, target)
    if report.done:
        folder.retire(target)
    return target


async def _hand_over_pool(
    fallback_log: FallbackLog, primary_log: PrimaryLog, views: Views, name: str
) -> str:
    """Everything of one pool; answers why the real log does not take it now, if it does not."""
    try:
        keys = await fallback_log.idempotency_keys(name)
        entries = await fallback_log.outbox(name)
        await gather_bounded(_settle(fallback_log, primary_log, entry) for entry in entries)
        await primary_log.read_capacity(name)
        live = await fallback_log.live(name)
        await gather_bounded(_hand_over(fallback_log, primary_log, agent, keys) for agent in live)
        await _record_ended(fallback_log, primary_log, views, name, keys)
    except (LogUnreachable, OutcomeUnknown):
        raise
    except LogError as error:
        return str(error)
    return ""


def _postponed(name: str, why: str) -> HandoverFailure:
    return HandoverFailure(pool_name=name, reason=f"it waits for the next start: {why}")


async def _hand_over(
    fallback_log: FallbackLog, primary_log: PrimaryLog, agent: Agent, keys: Mapping[str, Key]
) -> None:
    key = keys.get(agent.agent_id)
    refused = "" if agent.stop else await primary_log.refusal(agent, key)
    await _settle(
        fallback_log, primary_log, await fallback_log.release(agent, key, refused=refused)
    )


async def _settle(fallback_log: FallbackLog, primary_log: PrimaryLog, entry: Entry) -> None:
    """Have the real log's answer to an entry, unless it is known already."""
    if entry.result is Result.OPEN:
        await fallback_log.write_entry(await primary_log.submit(entry, int(time.time() * 1000)))


async def _record_ended(
    fallback_log: FallbackLog,
    primary_log: PrimaryLog,
    views: Views,
    name: str,
    keys: Mapping[str, Key],
) -> None:
    """Agents that came and went in the fallback, and whose client may still repeat its key."""
    known = {entry.agent_id for entry in await fallback_log.outbox(name)}
    for agent_id, key in keys.items():
        if agent_id in known or not key.from_client(agent_id) or primary_log.pool(name) is None:
            continue
        agent = await fallback_log.ended(views, name, agent_id)
        if agent is None:
            continue
        entry = Entry(
            pool_name=name,
            agent_id=agent_id,
            request=request_of(agent),
            since_ms=int(time.time() * 1000),
            alive=False,
            key=key,
        )
        await fallback_log.write_entry(entry)
        await _settle(fallback_log, primary_log, entry)


def _pools_not_handed_over(
    pools: Mapping[str, Pool], changed_pools: set[str], primary_log: PrimaryLog
) -> Sequence[HandoverFailure]:
    """Pools that are not in the real log as people left them in the fallback."""
    left = []
    for name, pool in pools.items():
        real = primary_log.pool(name)
        if real is None:
            reason = "" if pool.deleted else "it is not in the real log"
        elif name not in changed_pools:
            reason = ""
        elif pool.deleted:
            reason = "it was deleted in the fallback, and stands in the real log"
        else:
            changed = pool.config != real.config
            reason = "its settings were changed in the fallback only" if changed else ""
        if reason:
            left.append(HandoverFailure(pool_name=name, reason=reason))
    return left


async def _archive(
    fallback_log: FallbackLog, views: Views, folder: Folder, url: str, pools: Mapping[str, Pool]
) -> bool:
    """Have the fallback's views hold all of its events; False if they do not in time."""
    projector = Projector(ProjectorOptions(redis_url=url, database_url=folder.views_url))
    await projector.start()
    try:
        async with asyncio.timeout(ARCHIVE_SECONDS):
            for name in (CATALOGUE, *pools):
                seq = await fallback_log.head(name)
                if seq and not await views.wait_for(name, seq, timeout_seconds=ARCHIVE_SECONDS):
                    return False
    except TimeoutError:
        return False
    finally:
        await projector.stop()
    return True
