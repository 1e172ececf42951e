"""Rebuilds a log from its archive, as the next generation.

    halt -> wait until all leases expire -> wipe -> start -> refill -> record -> open

From `halt` to `open` no other process writes the log. If another recovery halts it after this one,
each further step of this one is refused with `Halted`. Every known worker is recorded as lost, and
so are its agents: each is requeued as its next incarnation, or ended if its termination was
requested. The caller must have waited for a complete lease after the halt, so that none of them
still runs. If a recovery is interrupted, the log stays halted and the next attempt starts again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from msgspec import Struct
from msgspec.structs import astuple

from eventstore.connection.calls import scan, translated_errors
from eventstore.errors import Halted
from eventstore.keys import CATALOGUE
from eventstore.language import agent_commands, workers
from eventstore.language.agent_commands import LoseState, MarkLost, Terminate
from eventstore.language.agents import Agent
from eventstore.language.events import LogRecovered
from eventstore.language.workers import Worker
from eventstore.log.log import Log
from eventstore.log.replies import Outcome, Reply
from eventstore.recovery.loss_reports import REPORTS_PART
from eventstore.steps import clauses
from eventstore.steps.step import Fence, Origin, Step

CHUNK: Final = 200
"""How many agents, events or operation ids are written at once."""
LOST_REASON: Final = "log-recovered"
POOL_DELETED: Final = Terminate(reason="pool-deleted")
CATALOGUE_SUBJECT: Final = "catalogue"


class RestorePoint(Struct, frozen=True, kw_only=True):
    """Where a rebuilt log continues: after `seq`, and not before `ts`."""

    generation: int
    seq: int
    ts: int
    epoch: int


async def halt_generation(log: Log, pool: str, generation: int, reason: str) -> bool:
    """Refuse all writes to a log until it is recovered.

    False if it has another generation or was halted before.
    """
    reply = await log.run_script("recover", pool, "close", "", reason, generation)
    return reply.outcome is Outcome.DONE


class LogRestore:
    """One log, from its halt to its opening."""

    def __init__(self, log: Log, pool: str, actor: str) -> None:
        self._log = log
        self._pool = pool
        self._origin = Origin(actor=actor)
        self._token = log.new_id()
        self._epoch = 0
        self._ts = 0

    async def halt(self, reason: str) -> Reply:
        """Refuse all other writes; returns the log's position, zeroes if there is no log."""
        return await self._log.run_script("recover", self._pool, "halt", self._token, reason)

    async def wipe(self) -> None:
        """Delete all keys of the pool but its meta hash, which halts it, and the loss reports."""
        if self._pool == CATALOGUE:
            return  # `start` deletes its only keys
        client, keys, pool = self._log.client, self._log.keys, self._pool
        preserved = {keys.pool(pool, part) for part in ("meta", REPORTS_PART)}
        for prefix in (keys.pool(pool, ""), keys.agent(pool, ""), keys.process(pool, "")):
            with translated_errors("'SCAN' failed"):
                async for some in scan(client, prefix):
                    if found := [key for key in some if key.decode() not in preserved]:
                        await self._recover("drop", *found)

    async def start(self, point: RestorePoint) -> None:
        """Create the streams, empty, and the counters."""
        reply = await self._recover("start", *astuple(point))
        self._epoch, self._ts = point.epoch, reply.ts

    async def refill(self, entries: Iterable[tuple[str, Sequence[str | bytes]]]) -> None:
        """Add archived entries with their ids, so that readers can continue at their position."""
        remaining = iter(entries)
        while chunk := list(islice(remaining, CHUNK)):
            arguments: list[str | bytes | int] = []
            for stream_id, fields in chunk:
                arguments += [stream_id, len(fields), *fields]
            await self._recover("refill", *arguments)

    async def record(self, body: LogRecovered) -> None:
        """Append that the log was recovered: the first event of its generation."""
        step = self._step()
        step.event(body, self._pool or CATALOGUE_SUBJECT)
        await self._write(step)

    async def mark_workers_lost(self, lost_workers: Iterable[Worker]) -> dict[str, int]:
        """Record every worker that had not ended as lost; returns their new epochs."""
        epochs: dict[str, int] = {}
        for worker in lost_workers:
            self._epoch += 1
            epochs[worker.worker_id] = self._epoch
            step = self._step()
            bodies = workers.decide(workers.DeclareLost(reason=LOST_REASON), worker)
            step.worker(worker.worker_id, worker, bodies, epoch=self._epoch)
            counters = ("agent_count", "0", "last_heartbeat", "0", "renewal", "0")
            ended_ms = self._log.retention.ended_ms
            step.write(clauses.PutWorker(worker.worker_id, counters, forget_ms=ended_ms))
            step.write(clauses.SetMeta("epoch", self._epoch))
            await self._write(step)
        return epochs

    async def restore_agents(
        self,
        agents_to_restore: Sequence[Agent],
        epochs: dict[str, int],
        *,
        deleted: bool = False,
        lost_states: Mapping[str, LoseState] = {},
    ) -> int:
        """Restore agents that had not ended; returns how many of them had a slot.

        `deleted`: their pool was deleted, so they end. `lost_states`: by agent, a later state than
        the archive knows of.
        """
        for start in range(0, len(agents_to_restore), CHUNK):
            step = self._step()
            for agent in agents_to_restore[start : start + CHUNK]:
                restored = self._restore_agent(step, agent, epochs)
                if agent.agent_id in lost_states and not restored.ended:
                    bodies = agent_commands.decide(lost_states[agent.agent_id], restored)
                    restored = step.agent(agent.agent_id, restored, bodies) if bodies else restored
                if deleted and not restored.ended:
                    bodies = agent_commands.decide(POOL_DELETED, restored)
                    step.agent(agent.agent_id, restored, bodies)
            await self._write(step)
        return sum(agent.held for agent in agents_to_restore)

    def _restore_agent(self, step: Step, agent: Agent, epochs: dict[str, int]) -> Agent:
        step.restore_agent(agent)
        if not agent.held:
            return agent
        lost = MarkLost(
            worker_id=agent.worker_id, reason=LOST_REASON, now_ms=self._ts, blameless=True
        )
        fence = Fence(agent.worker_id, epochs.get(agent.worker_id, self._epoch), lost=True)
        return step.agent(agent.agent_id, agent, agent_commands.decide(lost, agent), fence=fence)

    async def restore_state(self, agent_id: str, state: bytes) -> None:
        """Store what an agent has saved last."""
        step = self._step()
        step.write(clauses.PutState(agent_id, clauses.packed(state)))
        await self._write(step)

    async def drop_states(self, *, but: Collection[str]) -> None:
        """Delete what all agents but these have saved."""
        prefix = self._log.keys.state(self._pool, "")
        kept = {prefix + agent_id for agent_id in but}
        with translated_errors("'SCAN' failed"):
            async for some in scan(self._log.client, prefix):
                if found := [key for key in some if key.decode() not in kept]:
                    await self._recover("drop", *found)

    async def restore_operations(self, operations: Iterable[tuple[str, str, str, int]]) -> None:
        """Record operations again: id, digest, answer, and remaining time in ms."""
        await self._write_all(clauses.RecordOperation(*operation) for operation in operations)

    async def write_meta(self, fields: Iterable[tuple[str, str | int]]) -> None:
        """Set fields of the meta hash that are not derived from other keys."""
        await self._write_all(clauses.SetMeta(name, value) for name, value in fields)

    async def open(self, generation: int) -> None:
        """End the halt and delete the loss reports."""
        await self._recover("open", generation)

    # ---- writing -------------------------------------------------------------------------------

    def _step(self) -> Step:
        return self._log.step(self._pool, self._origin)

    async def _write_all(self, writes: Iterable[clauses.Write]) -> None:
        remaining = iter(writes)
        while chunk := list(islice(remaining, CHUNK)):
            step = self._step()
            step.write(*chunk)
            await self._write(step)

    async def _write(self, step: Step) -> None:
        """Without the step's checks: no other process can have changed the log."""
        if step.writes:
            checks = [clauses.MetaIs("recovering", self._token)]
            encoded = clauses.encode(checks, step.writes)
            reply = await self._log.run_script("restore", self._pool, 0, 0, encoded)
            self._require_done(self._log.step_reply("restore", self._pool, reply, reply.rest[0][0]))

    async def _recover(self, action: str, *arguments: str | bytes | int) -> Reply:
        return self._require_done(
            await self._log.run_script("recover", self._pool, action, self._token, *arguments)
        )

    def _require_done(self, reply: Reply) -> Reply:
        if reply.outcome is not Outcome.DONE:
            raise Halted(self._pool, "another recovery has started since")
        return reply
