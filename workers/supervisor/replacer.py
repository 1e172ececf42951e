"""Replaces a pool's workers one by one, as its leader.

All that lasts is recorded: the replacement in the catalogue, and which workers are cordoned for it,
or drain. So the next leader goes on where this one ended; it only watches new workers from then on.
"""

import contextlib
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from eventstore.connection.calls import ask
from eventstore.language import workers
from eventstore.language.events import (
    PoolReplacementFinished,
    PoolReplacementStopped,
    ReplacementBody,
)
from eventstore.language.replacement import REPLACED, Replacement
from eventstore.language.workers import Worker
from eventstore.log.replies import Leadership
from eventstore.log.survey import Survey
from eventstore.steps import clauses
from workers.supervisor import replacing
from workers.supervisor.draining import Draining
from workers.supervisor.replacing import Happening, Trials
from workers.supervisor.worker_monitor import PoolContext

log = structlog.get_logger("muster.leader")

CHUNK: Final = 100
"""Workers that are cordoned in one step."""
EVENTS: Final = 1_000
READS: Final = 10
"""Of so many events in one round; the rest in the next."""
REASON_MAX: Final = 500
"""Characters of the sentence that says why it has stopped."""
WATCHED: Final = frozenset(
    {"worker.requested", "worker.lost", "worker.stopped", "agent.claimed", "agent.started"}
    | replacing.FAILURES
)


class Replacer:
    """Replaces the workers of one pool within one term of its leader."""

    def __init__(self, context: PoolContext, lead: Leadership) -> None:
        self._context = context
        self._pool_log = context.pool_log
        self._lead = lead
        self._replacement_id = ""
        self._trials = Trials(0)
        self._position = "0"

    async def reconcile(self, survey: Survey, now: float, draining: Draining) -> None:
        """Cordon and drain the workers that are next, or end the replacement.

        No worker drains before this host has imported the code again.
        """
        pool = self._context.pool()
        replacement = pool.replacement
        if replacement is None or pool.deleted:
            return
        if not replacement.runs:
            await self._uncordon(survey)
            return
        problem = self._context.local.prepare(pool)
        if problem is None:
            return
        await self._watch(replacement, now)
        self._trials.observe(survey, now)
        if failure := problem or self._trials.failure:
            await self._end(replacement, PoolReplacementStopped(failure[:REASON_MAX]))
            return
        workers_max = pool.config.max_workers
        plan = replacing.plan(survey, replacement, self._trials.proven, workers_max)
        if plan.finished:
            await self._end(replacement, PoolReplacementFinished())
        await self._act(plan.cordon, workers.Cordon(reason=REPLACED))
        if replacement.deadline_seconds:
            drain_ms = survey.ts + int(replacement.deadline_seconds * 1000)
            await self._act(plan.retire, workers.Cordon(reason=REPLACED, drain_ms=drain_ms))
            return
        for worker in plan.retire:
            await draining.drain(worker, REPLACED)

    async def _act(self, chosen: Sequence[Worker], command: workers.WorkerCommand) -> None:
        """One that has changed since the survey leaves its whole chunk to the next round."""
        for first in range(0, len(chosen), CHUNK):
            step = self._pool_log.step()
            step.check(clauses.Leads(self._lead.host, self._lead.term))
            for worker in chosen[first : first + CHUNK]:
                step.worker(worker.worker_id, worker, workers.decide(command, worker))
            await self._pool_log.commit(step)

    async def _uncordon(self, survey: Survey) -> None:
        """Let the old workers that are left get agents again, unless a person cordoned them."""
        kept = [
            o.worker
            for o in survey.workers
            if o.worker.cordoned == REPLACED and o.worker.alive and not o.worker.draining
        ]
        await self._act(kept, workers.Uncordon(reason="replacement-ended", own=True))

    async def _end(self, replacement: Replacement, body: ReplacementBody) -> None:
        name = self._pool_log.pool
        await self._context.catalogue.change_replacement(
            name, body, self._pool_log.origin, replacement_id=replacement.replacement_id
        )
        if isinstance(body, PoolReplacementStopped):
            log.error("pool.replacement_stopped", pool=name, reason=body.reason)
        else:
            log.info("pool.replacement_finished", pool=name, workers=replacement.workers)

    async def _watch(self, replacement: Replacement, now: float) -> None:
        """Read what has become of new workers and their agents, from when this leader began."""
        if self._replacement_id != replacement.replacement_id:
            self._trials = Trials(replacement.epoch)
            newest = await self._read("XREVRANGE", "+", "-", 1)
            self._position = newest[0][0].decode() if newest else "0"
            self._replacement_id = replacement.replacement_id
        for _ in range(READS):
            entries = await self._read("XRANGE", f"({self._position}", "+", EVENTS)
            for entry_id, flat in entries:
                self._position = entry_id.decode()
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                if (kind := fields[b"type"].decode()) in WATCHED:
                    subject, worker = fields[b"subject"].decode(), fields[b"worker_id"].decode()
                    epoch, why = int(fields[b"epoch"] or 0), _why(fields[b"data"])
                    self._trials.record(Happening(kind, subject, worker, epoch, why), now)
            if len(entries) < EVENTS:
                return

    async def _read(
        self, command: str, first: str, last: str, count: int
    ) -> list[tuple[bytes, list[bytes]]]:
        stream = self._pool_log.log.keys.pool(self._pool_log.pool, "events")
        found: list[tuple[bytes, list[bytes]]] = await ask(
            self._pool_log.log.client, command, stream, first, last, "COUNT", str(count),
            doing="the events of a replacement",
        )  # fmt: skip
        return found


class _Why(msgspec.Struct):
    reason: str = ""
    error: "_Error | None" = None


class _Error(msgspec.Struct):
    type: str = ""
    message: str = ""


_why_decoder: Final = msgspec.json.Decoder(_Why)


def _why(data: bytes) -> str:
    """The reason or the error of an event, in one line."""
    found = _Why()
    with contextlib.suppress(msgspec.MsgspecError):
        found = _why_decoder.decode(data)
    if found.error is None:
        return found.reason
    return f"{found.error.type}: {found.error.message.partition(chr(10))[0]}"
