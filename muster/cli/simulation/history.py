"""The recorded history of a pool, read from the archive for a simulation."""

import argparse
import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from eventstore.language.events import PoolShadowDecided
from eventstore.language.pool_config import PoolConfig
from eventstore.names import unknown_name
from muster.cli.arguments import targets
from muster.cli.arguments.command import BadInput, Refused, database_errors, print_note
from muster.cli.arguments.values import time_ms
from muster.cli.simulation.progress import Progress
from muster.simulation.recorded import KINDS, WITH_DATA, Recording
from muster.simulation.replayed import ShadowStep

if TYPE_CHECKING:
    from projector.history.selected import LogSpan
    from projector.store.database import Database


class History(Struct, frozen=True):
    """What a pool has gone through."""

    recording: Recording
    config: PoolConfig
    """Its settings at the end."""
    shadows: Mapping[str, Sequence[ShadowStep]] = {}
    """What each of its shadow policies would have done."""


def recorded(args: argparse.Namespace, *, shadows: bool = False) -> History:
    """What `args.pool` has gone through `--from` one time `--to` another.

    `shadows`: since all its shadow policies are tried, and until now. Raises `BadInput`, `Refused`,
    and `ServiceUnreachable`.
    """
    url = targets.database_url(args)
    since_ms = time_ms(args.since, "--from") if args.since else 0
    until_ms = time_ms(args.until, "--to") if args.until else None
    if until_ms is not None and since_ms >= until_ms:
        raise BadInput("--from: must be before --to")
    with database_errors(url):
        return asyncio.run(_read(url, args.pool, since_ms, until_ms, shadows=shadows))


async def _read(
    url: str, pool: str, since_ms: int, until_ms: int | None, *, shadows: bool
) -> History:
    from projector.history.selected import log_span, selected
    from projector.store.database import Database

    database = Database(url, connections=1, only_reads=True)
    database.open()
    try:
        span = await log_span(database, pool, until_ms)
        _require_pool(span, pool, until_ms)
        tried: Mapping[str, Sequence[ShadowStep]] = {}
        if shadows:
            tried = await _shadows(database, span, pool)
            since_ms = max(since_ms, *(int(steps[0].at * 1000) for steps in tried.values()))
            until_ms = int(time.time() * 1000) if until_ms is None else until_ms
        recording = _recording(span, pool, since_ms, until_ms)
        report = Progress(pool, "events read", span.events)
        async for seq, rows in selected(database, span.position, KINDS, WITH_DATA):
            for kind, subject, worker_id, ts, data in rows:
                recording.apply(kind, subject, worker_id, ts / 1000, data)
            report(seq - span.position.spans[0].first + 1)
    finally:
        await database.close()
    recording.finish()
    return History(recording, span.catalogue.pools[pool].config, tried)


async def _shadows(
    database: "Database", span: "LogSpan", pool: str
) -> Mapping[str, Sequence[ShadowStep]]:
    """Of each policy that the pool has. Raises `Refused` where one was not tried yet."""
    from projector.history.selected import all_of

    names = span.catalogue.pools[pool].config.shadow
    if not names:
        raise Refused(
            f"pool {pool} has no shadow policy: muster pools set {pool} shadow=policy.toml"
        )
    found: dict[str, list[ShadowStep]] = {name: [] for name in names}
    for ts, data in await all_of(database, span.position, PoolShadowDecided.type):
        decided = msgspec.json.decode(data, type=PoolShadowDecided)
        if decided.policy in found:
            step = ShadowStep(ts / 1000, decided.current, decided.desired)
            found[decided.policy].append(step)
    if missing := [name for name, steps in found.items() if not steps]:
        raise Refused(f"nothing is recorded of the policy {missing[0]} yet")
    return found


def _require_pool(span: "LogSpan", pool: str, until_ms: int | None) -> None:
    """Raises `Refused` where nothing is archived of it."""
    pools, then = span.catalogue.pools, "" if until_ms is None else " before --to"
    if pool not in pools:
        raise Refused(f"{unknown_name('pool', pool, pools)}{then}")
    if not span.first_ms:
        raise Refused(f"pool {pool}: nothing is archived of it{then}")


def _recording(span: "LogSpan", pool: str, since_ms: int, until_ms: int | None) -> Recording:
    """Raises `Refused` where nothing is archived of that time."""
    since_ms = max(since_ms, span.first_ms)
    until_ms = span.position.ts if until_ms is None else min(until_ms, int(time.time() * 1000))
    if since_ms >= until_ms:
        raise Refused(f"pool {pool}: nothing is archived of it after --from")
    if span.position.truncated:
        print_note("the first events are not archived: agents that were there then are left out")
    return Recording(since_ms / 1000, until_ms / 1000)
