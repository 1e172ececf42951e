"""What this gateway has acknowledged and the archive has not taken yet.

It is kept for one purpose: where a log turns out to be missing, halted or behind, these commands
are reported beside it, so that recovering can name those that could not be saved. Where the log was
recovered before the report came, they are named here, in the log and in an alert.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from eventstore.errors import LogError, MusterError
from eventstore.log.log import Log
from eventstore.log.replies import Proof, Stand
from eventstore.recovery.loss_reports import Report, report
from projector.queries.views import DatabaseError, Position

log = structlog.get_logger("muster.gateway")

NOTED_MAX: Final = 10_000
"""Acknowledged commands of one log that are remembered; the oldest go first."""
LOOK_SECONDS: Final = 1.0
UNSAVED_MAX: Final = 1000

Positions = Callable[[], Awaitable[Mapping[str, Position]]]


class Ledger:
    """The commands of one gateway, by log."""

    def __init__(self, events: Log, positions: Positions) -> None:
        self.unsaved: deque[Report] = deque(maxlen=UNSAVED_MAX)
        """Acknowledged here and not in the log that was recovered."""
        self._events = events
        self._positions = positions
        self._noted: dict[str, deque[Report]] = {}
        self._reported: dict[str, tuple[int, int]] = {}
        self._name = f"gateway:{socket.gethostname()}"

    def note(self, proof: Proof, kind: str, subject: str, *, operation_id: str = "") -> None:
        """Remember a command that is about to be acknowledged, by where the log was with it."""
        noted = self._noted.setdefault(proof.pool, deque(maxlen=NOTED_MAX))
        noted.append(
            Report(
                reporter=self._name,
                kind=kind,
                agent_id=subject,
                generation=proof.generation or self._events.floor(proof.pool)[0],
                seq=proof.seq,
                ts=self._events.now_ms(proof.pool),
                operation_id=operation_id,
            )
        )

    def note_again(self, proof: Proof, kind: str, subject: str, *, operation_id: str = "") -> None:
        """Remember one that was found to be written, unless it is remembered, or archived.

        The proof's `seq` is that of its last event, or above it: where the log was when it was
        found. 0: it is archived.
        """
        known = self._noted.get(proof.pool, ())
        if proof.seq and not any((one.kind, one.agent_id) == (kind, subject) for one in known):
            self.note(proof, kind, subject, operation_id=operation_id)

    async def head(self, pool: str) -> Proof:
        """Where the log is, as far as it can be told: generation and seq of one instant."""
        try:
            stand = await self._events.stand(pool)
        except LogError:
            generation, seq = self._events.floor(pool)
        else:
            generation, seq = max(self._events.floor(pool), (stand.generation, stand.seq))
        return Proof(pool, "log", generation=generation, seq=seq)

    async def watch(self) -> None:
        """Forget what is archived, and report what may be lost, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for pool in [pool for pool, noted in self._noted.items() if noted]:
                try:
                    await self._look(pool)
                except (MusterError, DatabaseError, OSError):
                    continue  # asked again in a moment; others say that something is away

    async def _look(self, pool: str) -> None:
        noted = self._noted[pool]
        last = max((one.generation, one.seq) for one in noted)  # more may come before the reply
        stand = await self._events.stand(pool)
        self._name_unsaved(pool, stand)
        if not noted:
            return
        if stand.halted or (stand.generation, stand.seq) < last:
            await self._report(pool)
        else:
            self._forget_archived(pool, await self._archived(pool))

    async def _archived(self, pool: str) -> tuple[int, int]:
        found = (await self._positions()).get(pool)
        return (found.generation, found.seq) if found else (0, 0)

    def _forget_archived(self, pool: str, archived: tuple[int, int]) -> None:
        noted = self._noted[pool]
        while noted and (noted[0].generation, noted[0].seq) <= archived:
            noted.popleft()

    async def _report(self, pool: str) -> None:
        """Once for each command, beside the log that lost it."""
        told = self._reported.get(pool, (0, 0))
        new = [one for one in self._noted[pool] if (one.generation, one.seq) > told]
        if new:
            log.error("log.lost", pool=pool, acknowledged=len(new))
            await report(self._events, pool, new)
            self._reported[pool] = max((one.generation, one.seq) for one in new)

    def _name_unsaved(self, pool: str, stand: Stand) -> None:
        """Of a log that was recovered since: what was acknowledged above where it went on."""
        noted = self._noted[pool]
        while noted and noted[0].generation < stand.generation and not stand.halted:
            one = noted.popleft()
            if one.seq > stand.recovered_seq:
                self.unsaved.append(one)
                log.error(
                    "command.unsaved",
                    pool=pool,
                    kind=one.kind,
                    agent_id=one.agent_id,
                    generation=one.generation,
                    seq=one.seq,
                )
