"""Recovering logs that Redis lost: from the archive, under the next generation.

    seize the projector's lease -> find what is damaged -> halt it -> take in what the streams still
    have -> wait out every lease -> read what others report -> write each log anew -> open them

While this goes on nobody writes a damaged log, and nothing of it runs when it opens: no worker's
lease outlasts the wait. What was running is then started again as the next incarnation, what waited
waits again, and what was to end has ended. What nobody archived is named, command by command, from
the reports of gateways and workers, and from what only a lost stream had. Interrupted at any point,
the logs stay closed, and the next attempt begins again and names the same. Of two at once the later
one goes on. A log that is whole is not touched.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from eventstore.connection.clients import connect
from eventstore.errors import LogUnreachable, MusterError, OutcomeUnknown
from eventstore.keys import CATALOGUE
from eventstore.language.agents import Agent
from eventstore.language.events import LogRecovered
from eventstore.log.log import Log
from eventstore.recovery.loss_reports import AGENT_HELD, delete_reports, read_reports, write_reports
from eventstore.recovery.restore import LogRestore, RestorePoint
from eventstore.retention import Retention
from projector.fold.projection import Projection
from projector.intake.entries import OK
from projector.intake.source import Source
from projector.rebuild.startup import prepare_views
from projector.recovery.archived_state import (
    entries,
    fenced_epochs,
    first_seqs,
    highest_epoch,
    known_agents,
    live_agents,
    live_workers,
    meta_fields,
    operations,
)
from projector.recovery.damage_scan import Damage, any_pool_damaged, find_damage
from projector.recovery.drain import StreamDrain, ignore_losses
from projector.recovery.losses import LostCommand, find_lost, lost_pools
from projector.store.database import Database
from projector.store.lease import LEASE_SECONDS, Lease, Superseded
from projector.store.rows import Position
from projector.store.tables import SERVING

log = structlog.get_logger("muster.recovery")

EPOCH_GAP: Final = 1000
"""Epochs left out, in case some were drawn that the archive has not heard of."""
REFILL_EVENTS: Final = 1000
"""Archived events put back into a pool's stream, for readers to find their place."""
MARGIN_SECONDS: Final = 0.2
REPORT_WAIT_SECONDS: Final = 2.0
"""What gateways are given, where no lease has to lapse; they look at their logs every second."""
ATTEMPTS: Final = 5
"""Of a recovery that has closed logs, where Redis takes nothing for a moment..."""
PAUSE_SECONDS: Final = 2.0
"""...and between them."""


class RecoveryFenced(MusterError):
    """Another recovery, or a projector, took over; what is not recovered stays closed."""


class RecoveryInterrupted(LogUnreachable):
    """Redis took nothing any more once logs were closed."""

    def __init__(self, error: MusterError) -> None:
        super().__init__(
            f"{error}; what is damaged stays closed until `muster recover` is run again"
        )


class RecoveredLog(Struct, frozen=True, kw_only=True):
    """What became of one log."""

    pool: str
    """Empty for the catalogue."""
    reason: str
    from_generation: int
    generation: int
    seq: int
    """The last archived event; the log goes on after it."""
    known_seq: int
    """The highest that anybody is known to have seen."""
    workers: int = 0
    """Recorded as lost."""
    agents: int = 0
    """That had not ended."""
    restarted: int = 0
    """Of these, held by a worker: to run again as the next incarnation, or ended if asked for."""
    unsaved: tuple[LostCommand, ...] = ()


class Stage(Struct, frozen=True, kw_only=True):
    """What is being done now. `seconds_left`: of the wait for leases."""

    doing: str
    pool: str = ""
    seconds_left: float = 0.0


OnStage = Callable[[Stage], None]


class RecoveryOptions(Struct, frozen=True, kw_only=True):
    redis_url: str
    database_url: str
    key_prefix: str = ""
    lease_seconds: float = LEASE_SECONDS
    """As the projectors have it."""
    retention: Retention = Retention()
    actor: str = "recovery"


async def recover(options: RecoveryOptions, on_stage: OnStage) -> list[RecoveredLog]:
    """Recover every damaged log; answers what was done, nothing if all are whole.

    Where Redis takes nothing for a moment, it is begun again. Raises `RecoveryFenced`,
    `LogUnreachable` (`NotRecovered` among them), `LogError` and whatever the database raises.
    """
    async with _opened(options) as (database, source):
        lease = Lease(database, seconds=options.lease_seconds)
        await lease.seize()
        renewing = asyncio.create_task(_renew_loop(lease))
        try:
            make_recovery = partial(
                Recovery,
                database,
                source,
                lease,
                retention=options.retention,
                actor=options.actor,
                on_stage=on_stage,
            )
            return await _run_with_retry(make_recovery, on_stage)
        except Superseded as error:
            raise RecoveryFenced from error
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await lease.release()


async def _run_with_retry(
    make_recovery: "Callable[[], Recovery]", on_stage: OnStage
) -> list[RecoveredLog]:
    """Begin again where what ended it passes. A Redis that is away from the start is no such end.

    What an earlier attempt wrote may be open, and no other one finds it damaged.
    """
    written: dict[str, RecoveredLog] = {}
    damage_found, attempts_left = False, ATTEMPTS
    while True:
        recovery = make_recovery()
        try:
            written |= {one.pool: one for one in await recovery.run()}
            return list(written.values())
        except (LogUnreachable, OutcomeUnknown) as error:
            written |= recovery.written
            damage_found, attempts_left = damage_found or recovery.damage_found, attempts_left - 1
            if not damage_found:
                raise
            if not attempts_left:
                raise RecoveryInterrupted(error) from error
        on_stage(Stage(doing="waiting for Redis"))
        await asyncio.sleep(PAUSE_SECONDS)


async def examine(options: RecoveryOptions) -> list[Damage]:
    """What is damaged, as far as the views tell; nothing is changed."""
    async with _opened(options) as (database, source):
        projection = Projection(SERVING, archives=False)
        await database.read(projection.load)
        return await find_damage(source, database, projection)


@asynccontextmanager
async def _opened(options: RecoveryOptions) -> AsyncIterator[tuple[Database, Source]]:
    database = Database(options.database_url, connections=2)
    source = Source(options.redis_url, options.key_prefix)
    database.open()
    try:
        await database.prepare()
        yield database, source
    finally:
        await source.close()
        await database.close()


async def _renew_loop(lease: Lease) -> None:
    while True:
        await asyncio.sleep(lease.seconds / 4)
        await lease.renew()


class Recovery:
    """One recovery, under the projector's lease, which somebody else keeps renewed."""

    def __init__(
        self,
        database: Database,
        source: Source,
        lease: Lease,
        *,
        retention: Retention,
        actor: str,
        on_stage: OnStage,
    ) -> None:
        self._database = database
        self._source = source
        self._lease = lease
        self._retention = retention
        self._actor = actor
        self._on_stage = on_stage
        self.damage_found = False
        """Whether damage was found: logs may be closed."""
        self.written: dict[str, RecoveredLog] = {}
        self._projection = Projection(SERVING, archives=True)
        self._stream_drain = StreamDrain(database, source, lease, self._projection)

    async def run(self) -> list[RecoveredLog]:
        self._on_stage(Stage(doing="looking at the logs"))
        await prepare_views(self._database, self._source, self._lease, self._projection)
        # Which pools there are, and what became of them:
        await self._stream_drain.drain(CATALOGUE, ignore_losses)
        damage = await find_damage(self._source, self._database, self._projection)
        if not damage:
            return []
        self.damage_found = True
        client = connect(self._source.url, max_connections=2)
        try:
            event_log = Log(client, self._source.keys, retention=self._retention)
            return await self._recover(event_log, damage)
        finally:
            await client.aclose()

    async def _recover(self, event_log: Log, damage: Sequence[Damage]) -> list[RecoveredLog]:
        restores = [LogRestore(event_log, damaged.pool, self._actor) for damaged in damage]
        generations = []
        for one, restore in zip(damage, restores, strict=True):
            log.error("log.lost", pool=one.pool, reason=one.reason)
            generations.append((await restore.halt(one.reason)).generation)
            self._on_stage(Stage(doing="taking in what is left of the stream", pool=one.pool))
            await self._stream_drain.drain(one.pool, partial(write_reports, event_log, one.pool))
        if any_pool_damaged(damage):
            await self._wait_for_leases()
        else:
            await self._wait_for_reports()
        await self._lease.renew()  # who was overtaken while it waited writes nothing
        for logs in zip(damage, restores, generations, strict=True):
            self.written[logs[0].pool] = await self._restore(event_log, *logs)
        for restore, recovered in zip(restores, self.written.values(), strict=True):
            await restore.open(recovered.generation)
            for name in {lost.pool for lost in recovered.unsaved if lost.pool}:
                await delete_reports(event_log, name)
            log.warning(
                "log.recovered",
                pool=recovered.pool,
                generation=recovered.generation,
                seq=recovered.seq,
                agents=recovered.agents,
                lost=len(recovered.unsaved),
            )
        return list(self.written.values())

    def _positions(self) -> dict[str, Position]:
        return self._projection.positions

    # ---- before anything is written --------------------------------------------------------------

    async def _wait_for_leases(self) -> None:
        """Until no worker can trust its lease any more, whenever it was last renewed."""
        pools = self._projection.catalogue.pools.values()
        seconds = max((pool.config.lease_seconds for pool in pools), default=10.0)
        deadline = time.monotonic() + seconds + MARGIN_SECONDS
        while (remaining := deadline - time.monotonic()) > 0:
            self._on_stage(
                Stage(doing="waiting until every lease has lapsed", seconds_left=remaining)
            )
            await asyncio.sleep(min(remaining, 1.0))

    async def _wait_for_reports(self) -> None:
        """Until every gateway has looked at the catalogue and told what is lost of it."""
        self._on_stage(Stage(doing="waiting for reports", seconds_left=REPORT_WAIT_SECONDS))
        await asyncio.sleep(REPORT_WAIT_SECONDS)

    # ---- writing anew ----------------------------------------------------------------------------

    async def _restore(
        self, event_log: Log, damage: Damage, restore: LogRestore, generation: int
    ) -> RecoveredLog:
        """All but its opening. `generation`: of what was found in Redis."""
        pool = damage.pool
        self._on_stage(Stage(doing="writing the log anew", pool=pool))
        position, reports = self._positions()[pool], await read_reports(event_log, pool)
        agents = await self._database.read(lambda c: live_agents(c, pool))
        starts_by_generation = await self._database.read(lambda c: first_seqs(c, pool))
        held_agents = [one.agent_id for one in reports if one.kind == AGENT_HELD]
        known = await self._database.read(lambda c: known_agents(c, pool, held_agents))
        lost = find_lost(position, starts_by_generation, known, reports)
        known_seq = max((position.seq, *(one.seq for one in reports)))
        from_generation = (
            position.generation or self._projection.catalogue.generation
        )  # as a pool's log begins
        known_generation = max(
            (from_generation, generation, 1, *(one.generation for one in reports))
        )
        if pool == CATALOGUE:
            lost += await self._lost_in_missing_pools(event_log, position, lost)
        _log_losses(pool, lost)
        body = LogRecovered(
            generation=known_generation + 1,
            from_generation=max(from_generation, 1),
            from_seq=position.seq,
            known_seq=known_seq,
            reason=damage.reason,
        )
        ts = max((position.ts, *(report.ts for report in reports)))
        workers, restarted = await self._write(restore, pool, body, ts, agents)
        self._projection.mark_committed(
            await self._lease.write(lambda c: self._projection.set_status(c, pool, OK))
        )
        return RecoveredLog(
            pool=pool,
            reason=damage.reason,
            from_generation=position.generation,
            generation=body.generation,
            seq=position.seq,
            known_seq=known_seq,
            workers=workers,
            agents=len(agents),
            restarted=restarted,
            unsaved=tuple(lost),
        )

    async def _lost_in_missing_pools(
        self, event_log: Log, position: Position, lost: Sequence[LostCommand]
    ) -> list[LostCommand]:
        """What was acknowledged in pools that nobody knows of without their creation."""
        found: list[LostCommand] = []
        for name in lost_pools(lost, self._projection.catalogue.pools):
            reports = [
                r
                for r in await read_reports(event_log, name)
                if r.generation >= position.generation
            ]
            found += [replace(u, pool=name) for u in find_lost(Position(name), {}, (), reports)]
        return found

    async def _write(
        self, restore: LogRestore, pool: str, body: LogRecovered, ts: int, agents: Sequence[Agent]
    ) -> tuple[int, int]:
        read, position = self._database.read, self._positions()[pool]
        epoch = await read(lambda c: highest_epoch(c, pool)) + EPOCH_GAP
        await restore.wipe()
        await restore.start(
            RestorePoint(generation=body.generation, seq=position.seq, ts=ts, epoch=epoch)
        )
        limit = None if pool == CATALOGUE else REFILL_EVENTS
        await restore.refill(await read(lambda c: entries(c, position, limit)))
        await restore.write_meta(meta_fields(self._projection.catalogue, pool, self._positions()))
        await restore.record(body)
        workers = await read(lambda c: live_workers(c, pool))
        epochs = await read(lambda c: fenced_epochs(c, pool, agents))
        epochs |= await restore.mark_workers_lost(workers)
        pool_state = self._projection.catalogue.pools.get(pool)
        deleted = pool_state is not None and pool_state.deleted
        restarted = await restore.restore_agents(agents, epochs, deleted=deleted)
        await restore.restore_operations(await read(lambda c: operations(c, pool, ts)))
        return len(workers), restarted


def _log_losses(pool: str, found: Sequence[LostCommand]) -> None:
    for lost in found:
        log.error("command.lost", pool=lost.pool or pool, kind=lost.kind, agent_id=lost.agent_id,
                  generation=lost.generation, seq=lost.seq)  # fmt: skip
