"""Rewrites one damaged log in Redis: from views and archive, under the next generation."""

from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from eventstore.keys import CATALOGUE
from eventstore.language.agent_commands import LoseState
from eventstore.language.agents import Agent
from eventstore.language.events import LogRecovered
from eventstore.log.log import Log
from eventstore.recovery.loss_reports import AGENT_HELD, LossReport, read_reports
from eventstore.recovery.restore import LogRestore, RestorePoint
from projector.fold.projection import Projection
from projector.intake.entries import OK
from projector.recovery import archived_state
from projector.recovery.losses import LostCommand, find_lost, lost_pools, lost_saves
from projector.store import agent_states
from projector.store.lease import Lease
from projector.store.rows import Position

log = structlog.get_logger("muster.recovery")

EPOCH_GAP: Final = 1000
"""Epochs that are skipped: the lost log may have issued some that were not archived."""
REFILL_EVENTS: Final = 1000
"""Archived events that are put back into a pool's stream, so that readers find their position."""


class RecoveredLog(Struct, frozen=True, kw_only=True):
    """The result for one log."""

    pool: str
    """Empty for the catalogue."""
    reason: str
    from_generation: int
    generation: int
    seq: int
    """The last archived event; the log goes on after it."""
    known_seq: int
    """The highest seq that any process is known to have observed."""
    workers: int = 0
    """Recorded as lost."""
    agents: int = 0
    """That had not ended."""
    restarted: int = 0
    """Of these, in a worker's slot: restarted as the next incarnation, or ended if requested."""
    unsaved: tuple[LostCommand, ...] = ()


class LogRewrite(Struct, eq=False):
    """Of halted logs, under the projector's lease; `projection` is at the archive's end."""

    _lease: Lease
    _projection: Projection
    _log: Log

    async def run(
        self, pool: str, reason: str, restore: LogRestore, generation: int
    ) -> RecoveredLog:
        """All but opening the log. `generation`: of what was found in Redis."""
        position, reports = self._projection.positions[pool], await read_reports(self._log, pool)
        agents = await self._lease.database.read(lambda c: archived_state.live_agents(c, pool))
        lost = await self._find_lost(position, reports)
        _log_losses(pool, lost)
        # A pool without an archive starts in the catalogue's generation.
        from_generation = position.generation or self._projection.catalogue.generation
        reported_generations = (report.generation for report in reports)
        body = LogRecovered(
            generation=max(from_generation, generation, 1, *reported_generations) + 1,
            from_generation=max(from_generation, 1),
            from_seq=position.seq,
            known_seq=max((position.seq, *(report.seq for report in reports))),
            reason=reason,
        )
        ts = max((position.ts, *(report.ts for report in reports)))
        saves = lost_saves(reports)
        lost_states = {
            agent.agent_id: LoseState(save=later.save, sha256=later.sha256)
            for agent in agents
            if (later := saves.get(agent.agent_id)) and later.sha256 and later.save > agent.save
        }
        workers, restarted = await self._write(restore, position, body, ts, agents, lost_states)
        self._projection.mark_committed(
            await self._lease.write(lambda c: self._projection.set_status(c, pool, OK))
        )
        return RecoveredLog(
            pool=pool,
            reason=reason,
            from_generation=position.generation,
            generation=body.generation,
            seq=position.seq,
            known_seq=body.known_seq,
            workers=workers,
            agents=len(agents),
            restarted=restarted,
            unsaved=tuple(lost),
        )

    async def _find_lost(
        self, position: Position, reports: Sequence[LossReport]
    ) -> list[LostCommand]:
        read, pool = self._lease.database.read, position.pool
        first_seqs = await read(lambda c: archived_state.first_seqs(c, pool))
        ids = [report.agent_id for report in reports if report.kind == AGENT_HELD]
        known = await read(lambda c: archived_state.known_agents(c, pool, ids))
        lost = find_lost(position, first_seqs, known, reports)
        if pool == CATALOGUE:
            lost += await self._lost_in_missing_pools(position, lost)
        return lost

    async def _lost_in_missing_pools(
        self, position: Position, lost: Sequence[LostCommand]
    ) -> list[LostCommand]:
        """Commands that were acknowledged in pools whose creation was lost with the catalogue."""
        found: list[LostCommand] = []
        for name in lost_pools(lost, self._projection.catalogue.pools):
            reports = await read_reports(self._log, name)
            reports = [one for one in reports if one.generation >= position.generation]
            in_pool = find_lost(Position(name), {}, (), reports)
            found += [replace(one, pool=name) for one in in_pool]
        return found

    async def _write(
        self,
        restore: LogRestore,
        position: Position,
        body: LogRecovered,
        ts: int,
        agents: Sequence[Agent],
        lost_states: Mapping[str, LoseState],
    ) -> tuple[int, int]:
        """Returns the numbers of lost workers and of restarted agents."""
        read, pool = self._lease.database.read, position.pool
        epoch = await read(lambda c: archived_state.highest_epoch(c, pool)) + EPOCH_GAP
        await restore.wipe()
        point = RestorePoint(generation=body.generation, seq=position.seq, ts=ts, epoch=epoch)
        await restore.start(point)
        limit = None if pool == CATALOGUE else REFILL_EVENTS
        await restore.refill(await read(lambda c: archived_state.entries(c, position, limit)))
        meta = await read(lambda c: archived_state.meta_fields(c, self._projection, pool))
        await restore.write_meta(meta)
        await restore.record(body)
        workers = await read(lambda c: archived_state.live_workers(c, pool))
        epochs = await read(lambda c: archived_state.fenced_epochs(c, pool, agents))
        epochs |= await restore.mark_workers_lost(workers)
        pool_state = self._projection.catalogue.pools.get(pool)
        deleted = pool_state is not None and pool_state.deleted
        restarted = await restore.restore_agents(
            agents, epochs, deleted=deleted, lost_states=lost_states
        )
        await self._restore_states(restore, pool, () if deleted else agents)
        operations = await read(lambda c: archived_state.operations(c, pool, ts))
        await restore.restore_operations(operations)
        return len(workers), restarted

    async def _restore_states(
        self, restore: LogRestore, pool: str, agents: Sequence[Agent]
    ) -> None:
        """Give each agent the state that its events name: the database's, else that in Redis.

        An older one is deleted: such an agent waits for an operator once it was claimed.
        """
        if pool == CATALOGUE:
            return
        found = set[str]()
        for agent in agents:
            if agent.state_sha256 and (state := await self._state_of(agent)) is not None:
                await restore.restore_state(agent.agent_id, state)
                found.add(agent.agent_id)
        await restore.drop_states(but=found)

    async def _state_of(self, agent: Agent) -> bytes | None:
        state = await self._lease.database.read(lambda c: agent_states.read(c, agent))
        if state is None:
            state = await self._log.saved_state(agent.pool_name, agent)
        return state


def _log_losses(pool: str, found: Sequence[LostCommand]) -> None:
    for lost in found:
        log.error("command.lost", pool=lost.pool or pool, kind=lost.kind, agent_id=lost.agent_id,
                  generation=lost.generation, seq=lost.seq)  # fmt: skip
