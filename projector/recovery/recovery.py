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
from sqlalchemy import Connection

from eventstore.connection.clients import connect
from eventstore.errors import LogUnreachable, MusterError, OutcomeUnknown
from eventstore.keys import CATALOGUE
from eventstore.language.agents import Agent
from eventstore.language.events import LogRecovered
from eventstore.log.log import Log
from eventstore.recovery.loss_reports import HOLDS, forget_reports, read_reports, report
from eventstore.recovery.restore import Beginning, Restoring
from eventstore.retention import Retention
from projector.fold.projection import Projection, Taken
from projector.intake.entries import OK
from projector.intake.source import Source
from projector.rebuild.startup import ready
from projector.recovery.archived_state import (
    beginnings,
    catalogue_notes,
    entries,
    fenced_epochs,
    highest_epoch,
    known_agents,
    living_agents,
    living_workers,
    operations,
)
from projector.recovery.damage_scan import Damage, damaged_pools, find_damage
from projector.recovery.drain import Remains, nobody
from projector.recovery.losses import Unsaved, find_unsaved, lost_pools
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
REPORTS_SECONDS: Final = 2.0
"""What gateways are given, where no lease has to lapse; they look at their logs every second."""
ATTEMPTS: Final = 5
"""Of a recovery that has closed logs, where Redis takes nothing for a moment..."""
PAUSE_SECONDS: Final = 2.0
"""...and between them."""


class RecoveryFenced(MusterError):
    """Another recovery, or a projector, took over; what is not recovered stays closed."""


class NotRecovered(LogUnreachable):
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
    unsaved: tuple[Unsaved, ...] = ()


class Stage(Struct, frozen=True, kw_only=True):
    """What is being done now. `seconds_left`: of the wait for leases."""

    doing: str
    pool: str = ""
    seconds_left: float = 0.0


Tell = Callable[[Stage], None]


class RecoveryOptions(Struct, frozen=True, kw_only=True):
    redis_url: str
    database_url: str
    key_prefix: str = ""
    lease_seconds: float = LEASE_SECONDS
    """As the projectors have it."""
    retention: Retention = Retention()
    actor: str = "recovery"


async def recover(options: RecoveryOptions, tell: Tell) -> list[RecoveredLog]:
    """Recover every damaged log; answers what was done, nothing if all are whole.

    Where Redis takes nothing for a moment, it is begun again. Raises `RecoveryFenced`,
    `LogUnreachable` (`NotRecovered` among them), `LogError` and whatever the database raises.
    """
    async with _opened(options) as (database, source):
        lease = Lease(database, seconds=options.lease_seconds)
        await lease.seize()
        keeping = asyncio.create_task(_keep(lease))
        try:
            anew = partial(
                Recovery,
                database,
                source,
                lease,
                retention=options.retention,
                actor=options.actor,
                tell=tell,
            )
            return await _persist(anew, tell)
        except Superseded as error:
            raise RecoveryFenced from error
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await lease.release()


async def _persist(anew: "Callable[[], Recovery]", tell: Tell) -> list[RecoveredLog]:
    """Begin again where what ended it passes. A Redis that is away from the start is no such end.

    What an earlier attempt wrote may be open, and no other one finds it damaged.
    """
    written: dict[str, RecoveredLog] = {}
    begun, left = False, ATTEMPTS
    while True:
        recovery = anew()
        try:
            written |= {one.pool: one for one in await recovery.run()}
            return list(written.values())
        except (LogUnreachable, OutcomeUnknown) as error:
            written |= recovery.written
            begun, left = begun or recovery.begun, left - 1
            if not begun:
                raise
            if not left:
                raise NotRecovered(error) from error
        tell(Stage(doing="waiting for Redis"))
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


async def _keep(lease: Lease) -> None:
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
        tell: Tell,
    ) -> None:
        self._database = database
        self._source = source
        self._lease = lease
        self._retention = retention
        self._actor = actor
        self._tell = tell
        self.begun = False
        """Whether damage was found: logs may be closed."""
        self.written: dict[str, RecoveredLog] = {}
        self._projection = Projection(SERVING, archives=True)
        self._remains = Remains(database, source, lease, self._projection)

    async def run(self) -> list[RecoveredLog]:
        self._tell(Stage(doing="looking at the logs"))
        await ready(self._database, self._source, self._lease, self._projection)
        # Which pools there are, and what became of them:
        await self._remains.take_in(CATALOGUE, nobody)
        damage = await find_damage(self._source, self._database, self._projection)
        if not damage:
            return []
        self.begun = True
        client = connect(self._source.url, max_connections=2)
        try:
            events = Log(client, self._source.keys, retention=self._retention)
            return await self._recover(events, damage)
        finally:
            await client.aclose()

    async def _recover(self, events: Log, damage: Sequence[Damage]) -> list[RecoveredLog]:
        restorings = [Restoring(events, one.pool, self._actor) for one in damage]
        generations = []
        for one, restoring in zip(damage, restorings, strict=True):
            log.error("log.lost", pool=one.pool, reason=one.reason)
            generations.append((await restoring.halt(one.reason)).generation)
            self._tell(Stage(doing="taking in what is left of the stream", pool=one.pool))
            await self._remains.take_in(one.pool, partial(report, events, one.pool))
        if damaged_pools(damage):
            await self._wait_out()
        else:
            await self._hear_out()
        await self._lease.renew()  # who was overtaken while it waited writes nothing
        for each in zip(damage, restorings, generations, strict=True):
            self.written[each[0].pool] = await self._restore(events, *each)
        for restoring, recovered in zip(restorings, self.written.values(), strict=True):
            await restoring.open(recovered.generation)
            for name in {lost.pool for lost in recovered.unsaved if lost.pool}:
                await forget_reports(events, name)
            log.warning(
                "log.recovered",
                pool=recovered.pool,
                generation=recovered.generation,
                seq=recovered.seq,
                agents=recovered.agents,
                unsaved=len(recovered.unsaved),
            )
        return list(self.written.values())

    def _positions(self) -> dict[str, Position]:
        return self._projection.positions

    # ---- before anything is written --------------------------------------------------------------

    async def _wait_out(self) -> None:
        """Until no worker can trust its lease any more, whenever it was last renewed."""
        pools = self._projection.catalogue.pools.values()
        seconds = max((pool.config.lease_seconds for pool in pools), default=10.0)
        deadline = time.monotonic() + seconds + MARGIN_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            self._tell(Stage(doing="waiting until every lease has lapsed", seconds_left=left))
            await asyncio.sleep(min(left, 1.0))

    async def _hear_out(self) -> None:
        """Until every gateway has looked at the catalogue and told what is lost of it."""
        self._tell(Stage(doing="waiting for reports", seconds_left=REPORTS_SECONDS))
        await asyncio.sleep(REPORTS_SECONDS)

    # ---- writing anew ----------------------------------------------------------------------------

    async def _restore(
        self, events: Log, one: Damage, restoring: Restoring, generation: int
    ) -> RecoveredLog:
        """All but its opening. `generation`: of what was found in Redis."""
        pool = one.pool
        self._tell(Stage(doing="writing the log anew", pool=pool))
        at, reports = self._positions()[pool], await read_reports(events, pool)
        agents = await self._database.read(lambda c: living_agents(c, pool))
        begins = await self._database.read(lambda c: beginnings(c, pool))
        held = [one.agent_id for one in reports if one.kind == HOLDS]
        known = await self._database.read(lambda c: known_agents(c, pool, held))
        lost = find_unsaved(at, begins, known, reports)
        known_seq = max((at.seq, *(one.seq for one in reports)))
        began = at.generation or self._projection.catalogue.generation  # as a pool's log begins
        known_generation = max((began, generation, 1, *(one.generation for one in reports)))
        if pool == CATALOGUE:
            lost += await self._in_lost_pools(events, at, lost)
        _name(pool, lost)
        body = LogRecovered(
            generation=known_generation + 1,
            from_generation=max(began, 1),
            from_seq=at.seq,
            known_seq=known_seq,
            reason=one.reason,
        )
        ts = max((at.ts, *(report.ts for report in reports)))
        workers, restarted = await self._write(restoring, pool, body, ts, agents)
        self._projection.keep(await self._database.write(lambda c: self._resume(c, pool)))
        return RecoveredLog(
            pool=pool,
            reason=one.reason,
            from_generation=at.generation,
            generation=body.generation,
            seq=at.seq,
            known_seq=known_seq,
            workers=workers,
            agents=len(agents),
            restarted=restarted,
            unsaved=tuple(lost),
        )

    async def _in_lost_pools(
        self, events: Log, at: Position, lost: Sequence[Unsaved]
    ) -> list[Unsaved]:
        """What was acknowledged in pools that nobody knows of without their creation."""
        found: list[Unsaved] = []
        for name in lost_pools(lost, self._projection.catalogue.pools):
            told = [r for r in await read_reports(events, name) if r.generation >= at.generation]
            found += [replace(u, pool=name) for u in find_unsaved(Position(name), {}, (), told)]
        return found

    def _resume(self, connection: Connection, pool: str) -> Taken:
        self._lease.hold(connection)
        return self._projection.halt(connection, pool, OK)

    async def _write(
        self, restoring: Restoring, pool: str, body: LogRecovered, ts: int, agents: Sequence[Agent]
    ) -> tuple[int, int]:
        read, at = self._database.read, self._positions()[pool]
        epoch = await read(lambda c: highest_epoch(c, pool)) + EPOCH_GAP
        await restoring.wipe()
        await restoring.begin(Beginning(generation=body.generation, seq=at.seq, ts=ts, epoch=epoch))
        limit = None if pool == CATALOGUE else REFILL_EVENTS
        await restoring.refill(await read(lambda c: entries(c, at, limit)))
        await restoring.note(catalogue_notes(self._projection.catalogue, pool, self._positions()))
        await restoring.record(body)
        workers = await read(lambda c: living_workers(c, pool))
        epochs = await read(lambda c: fenced_epochs(c, pool, agents))
        epochs |= await restoring.lose_workers(workers)
        known = self._projection.catalogue.pools.get(pool)
        deleted = known is not None and known.deleted
        restarted = await restoring.place_agents(agents, epochs, deleted=deleted)
        await restoring.remember(await read(lambda c: operations(c, pool, ts)))
        return len(workers), restarted


def _name(pool: str, found: Sequence[Unsaved]) -> None:
    for lost in found:
        log.error("command.unsaved", pool=lost.pool or pool, kind=lost.kind, agent_id=lost.agent_id,
                  generation=lost.generation, seq=lost.seq)  # fmt: skip
