"""What this gateway has acknowledged and is not archived yet.

It has one purpose: if a log turns out to be missing, halted or behind, these commands are reported
next to it, so that the recovery can name those that are lost. If the log was recovered before the
report came, they are named here, in the log and in an alert.
"""

import asyncio
import socket
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from eventstore.errors import LogError, MusterError
from eventstore.log.log import Log
from eventstore.log.replies import LogHead, Proof
from eventstore.recovery.loss_reports import LossReport, write_reports
from eventstore.ticks import tick
from projector.queries.views import DatabaseError, Position

log = structlog.get_logger("muster.gateway")

COMMANDS_MAX: Final = 10_000
"""Acknowledged commands of one log that are remembered; the oldest are dropped first."""
CHECK_INTERVAL_SECONDS: Final = 1.0
LOST_MAX: Final = 1000

Positions = Callable[[], Awaitable[Mapping[str, Position]]]


class AcknowledgedCommands:
    """The commands of one gateway, by log."""

    def __init__(self, event_log: Log, positions: Positions) -> None:
        self.lost: deque[LossReport] = deque(maxlen=LOST_MAX)
        """Acknowledged here and not in the recovered log."""
        self._log = event_log
        self._positions = positions
        self._commands = defaultdict[str, deque[LossReport]](partial(deque, maxlen=COMMANDS_MAX))
        self._recorded = asyncio.Event()
        self._reported_until: dict[str, tuple[int, int]] = {}
        self._reporter = f"gateway:{socket.gethostname()}"

    def record(self, proof: Proof, kind: str, subject: str, *, operation_id: str = "") -> None:
        """Remember a command that is about to be acknowledged, by where the log was with it."""
        command = LossReport(
            reporter=self._reporter,
            kind=kind,
            agent_id=subject,
            generation=proof.generation or self._log.high_water_mark(proof.pool)[0],
            seq=proof.seq,
            ts=self._log.now_ms(proof.pool),
            operation_id=operation_id,
        )
        self._commands[proof.pool].append(command)
        self._recorded.set()

    def record_once(self, proof: Proof, kind: str, subject: str, *, operation_id: str = "") -> None:
        """Remember one that was found to be written, unless it is remembered or archived.

        The proof's `seq` is that of its last event, or above it: the log's position when it was
        found. 0: it is archived.
        """
        commands = self._commands.get(proof.pool, ())
        if proof.seq and not any((one.kind, one.agent_id) == (kind, subject) for one in commands):
            self.record(proof, kind, subject, operation_id=operation_id)

    async def head(self, pool: str) -> Proof:
        """The position of the log, as far as it is known: generation and seq belong together."""
        position = 0, 0
        with suppress(LogError):
            log_head = await self._log.head(pool)
            position = log_head.generation, log_head.seq
        generation, seq = max(self._log.high_water_mark(pool), position)
        return Proof(pool, "log", generation=generation, seq=seq)

    async def watch(self) -> None:
        """Forget what is archived, and report what may be lost, until cancelled."""
        while True:
            if not self._commands:
                self._recorded.clear()
                await self._recorded.wait()
            await tick(CHECK_INTERVAL_SECONDS)
            for pool in list(self._commands):
                # It is checked again soon; others report what is unreachable.
                with suppress(MusterError, DatabaseError, OSError):
                    await self._check(pool)
                if not self._commands[pool]:
                    del self._commands[pool]
                    self._reported_until.pop(pool, None)

    async def _check(self, pool: str) -> None:
        commands = self._commands[pool]
        last = max(map(_position, commands))  # more may come before the reply
        log_head = await self._log.head(pool)
        self._log_lost(pool, commands, log_head)
        if not commands:
            return
        if log_head.halted or (log_head.generation, log_head.seq) < last:
            await self._report(pool, commands)
        elif archived := (await self._positions()).get(pool):
            while commands and _position(commands[0]) <= (archived.generation, archived.seq):
                commands.popleft()

    async def _report(self, pool: str, commands: Sequence[LossReport]) -> None:
        """Once for each command, next to the log that lost it."""
        reported_until = self._reported_until.get(pool, (0, 0))
        new = [one for one in commands if _position(one) > reported_until]
        if new:
            log.error("log.lost", pool=pool, acknowledged=len(new))
            await write_reports(self._log, pool, new)
            self._reported_until[pool] = max(map(_position, new))

    def _log_lost(self, pool: str, commands: deque[LossReport], log_head: LogHead) -> None:
        """Of a log that was recovered since: what was acknowledged above its recovered position."""
        while commands and commands[0].generation < log_head.generation and not log_head.halted:
            command = commands.popleft()
            if command.seq > log_head.recovered_seq:
                self.lost.append(command)
                log.error(
                    "command.lost",
                    pool=pool,
                    kind=command.kind,
                    agent_id=command.agent_id,
                    generation=command.generation,
                    seq=command.seq,
                )


def _position(command: LossReport) -> tuple[int, int]:
    return command.generation, command.seq
