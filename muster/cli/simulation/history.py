"""The recorded history of a pool, read from the archive for a simulation."""

import argparse
import asyncio
import time
from typing import TYPE_CHECKING

from eventstore.language.pool_config import PoolConfig
from eventstore.names import unknown_name
from muster.cli.arguments import targets
from muster.cli.arguments.command import BadInput, Refused, database_errors, print_note
from muster.cli.arguments.values import time_ms
from muster.cli.simulation.progress import Progress
from muster.simulation.recorded import KINDS, WITH_DATA, Recording

if TYPE_CHECKING:
    from projector.history.selected import LogSpan


def recorded(args: argparse.Namespace) -> tuple[PoolConfig, Recording]:
    """What `--pool` has gone through `--from` one time `--to` another, and its settings then.

    Raises `BadInput`, `Refused`, and `ServiceUnreachable`.
    """
    url = targets.database_url(args)
    since_ms = time_ms(args.since, "--from") if args.since else 0
    until_ms = time_ms(args.until, "--to") if args.until else None
    if until_ms is not None and since_ms >= until_ms:
        raise BadInput("--from: must be before --to")
    with database_errors(url):
        return asyncio.run(_read(url, args.pool, since_ms, until_ms))


async def _read(
    url: str, pool: str, since_ms: int, until_ms: int | None
) -> tuple[PoolConfig, Recording]:
    from projector.history.selected import log_span, selected
    from projector.store.database import Database

    database = Database(url, connections=1, only_reads=True)
    database.open()
    try:
        span = await log_span(database, pool, until_ms)
        recording = _recording(span, pool, since_ms, until_ms)
        report = Progress(pool, "events read", span.events)
        async for seq, rows in selected(database, span.position, KINDS, WITH_DATA):
            for kind, subject, worker_id, ts, data in rows:
                recording.apply(kind, subject, worker_id, ts / 1000, data)
            report(seq - span.position.spans[0].first + 1)
    finally:
        await database.close()
    recording.finish()
    return span.catalogue.pools[pool].config, recording


def _recording(span: "LogSpan", pool: str, since_ms: int, until_ms: int | None) -> Recording:
    """Raises `Refused` where nothing is archived of that, and `BadInput`."""
    pools, then = span.catalogue.pools, "" if until_ms is None else " before --to"
    if pool not in pools:
        raise Refused(f"{unknown_name('pool', pool, pools)}{then}")
    if not span.first_ms:
        raise Refused(f"pool {pool}: nothing is archived of it{then}")
    since_ms = max(since_ms, span.first_ms)
    until_ms = span.position.ts if until_ms is None else min(until_ms, int(time.time() * 1000))
    if since_ms >= until_ms:
        raise Refused(f"pool {pool}: nothing is archived of it after --from")
    if span.position.truncated:
        print_note("the first events are not archived: agents that were there then are left out")
    return Recording(since_ms / 1000, until_ms / 1000)
