"""Waiting until what was acknowledged is on a disk, or on replicas: many commands in one wait.

A command is committed over any connection. Afterwards one script proves that its writes are in the
data set at the other end of *this* connection (a failover may have come between) and writes once
more; WAIT, which counts what its own connection wrote, then covers that and all before.

A connection that waits can do nothing else, so there are a few, separate from those of the log.
What arrives while others wait is collected for a short time and sent together.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from eventstore.connection.calls import UNREACHABLE
from eventstore.connection.clients import Client
from eventstore.connection.reply_parser import Command
from eventstore.durability.capability import FSYNC_SETTINGS, fsyncs_before_reply
from eventstore.errors import CommandLost, LogError
from eventstore.language.durability import Level
from eventstore.log.log import Log
from eventstore.log.replies import Proof, fields_of
from eventstore.log.script_runner import parse_reply, script
from eventstore.redis_errors import RedisError

TASKS_MAX: Final = 8
"""So many connections wait at a time, for each level."""
LINGER_SECONDS: Final = 0.02
"""For each one that waits already, the next collects so much longer."""
BATCH_MAX: Final = 500
WAIT_SECONDS_MAX: Final = 60.0
TICK_MS: Final = 120
"""A server checks ten times a second which waits are over."""


class WaitTarget(Struct, frozen=True):
    """What is waited for."""

    level: Level
    replicas: int = 1


class _Item(Struct, eq=False):
    proofs: Sequence[Proof]
    deadline: float
    future: "asyncio.Future[str]"


class Confirmations:
    """Confirms commands of one log. `close` cancels what still waits."""

    def __init__(self, log: Log, url: str) -> None:
        self._log = log
        self._client = Client(url, block_seconds=WAIT_SECONDS_MAX)
        self._queues: dict[WaitTarget, deque[_Item]] = {}
        self._tasks: dict[WaitTarget, set[asyncio.Task[None]]] = {}

    async def close(self) -> None:
        running = [task for tasks in self._tasks.values() for task in tasks]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._client.aclose()

    async def confirm(self, target: WaitTarget, proofs: Sequence[Proof], deadline: float) -> str:
        """Wait until the level is reached; else why it was not by `deadline` (the loop's time).

        Raises `CommandLost`, `RolledBack` or `LogMissing` if the writes are not there.
        """
        loop = asyncio.get_running_loop()
        item = _Item(proofs, deadline, loop.create_future())
        self._queues.setdefault(target, deque()).append(item)
        tasks = self._tasks.setdefault(target, set())
        if len(tasks) < TASKS_MAX:
            task = asyncio.create_task(self._confirm_batches(target, len(tasks) * LINGER_SECONDS))
            tasks.add(task)
        try:
            async with asyncio.timeout_at(deadline):
                return await item.future
        except TimeoutError:
            replicated = target.level is Level.REPLICATED
            missing = "acknowledged by enough replicas" if replicated else "fsynced"
            return f"not {missing} in time"

    # ---- one connection ----------------------------------------------------------------------

    async def _confirm_batches(self, target: WaitTarget, linger: float) -> None:
        """Wait for one batch after another, until nothing is left."""
        task = asyncio.current_task()
        assert task is not None
        try:
            if linger:
                await asyncio.sleep(linger)
            while batch := self._next_batch(target):
                await self._confirm_batch(target, batch)
        finally:
            self._tasks[target].discard(task)

    def _next_batch(self, target: WaitTarget) -> list[_Item]:
        """The next ones whose callers still wait."""
        queue = self._queues[target]
        batch: list[_Item] = []
        while queue and len(batch) < BATCH_MAX:
            item = queue.popleft()
            if not item.future.done():
                batch.append(item)
        return batch

    async def _confirm_batch(self, target: WaitTarget, batch: Sequence[_Item]) -> None:
        seconds_left = max(item.deadline for item in batch) - asyncio.get_running_loop().time()
        limit_ms = int(seconds_left * 1000)
        wait_ms = max(limit_ms - TICK_MS, limit_ms // 2, 1)  # the reply comes before our deadline
        failures: dict[Proof, Exception] = {}
        try:
            failures, wait_reply = await self._send_batch(target, batch, wait_ms)
            reason = _failure_reason(target, wait_reply)
        except UNREACHABLE as error:
            reason = f"Redis does not answer: {error}"
        except RedisError as error:
            reason = f"Redis refuses: {error}"
        for item in batch:
            if not item.future.done():
                _resolve(item, failures, reason)

    async def _send_batch(
        self, target: WaitTarget, batch: Sequence[_Item], wait_ms: int
    ) -> tuple[dict[Proof, Exception], Any]:
        """Prove all of them, log by log, and wait behind that, over one connection.

        Returns why proofs are not valid, and the reply to the wait.
        """
        logs: dict[tuple[str, int], list[Proof]] = {}
        for item in batch:
            for proof in item.proofs:
                logs.setdefault((proof.pool, proof.generation), []).append(proof)
        commands: list[Command] = []
        for (pool, generation), proofs in logs.items():
            values = [text for p in proofs for text in (p.kind, p.subject, p.value)]
            mark = self._mark_for(pool, generation, max(p.seq for p in proofs))
            keys = self._log.script_keys(pool)
            commands.append(("EVAL", script("confirm").text, 2, *keys, *mark, *values))
        if target.level is Level.REPLICATED:
            commands.append(("WAIT", target.replicas, wait_ms))
        else:
            commands.append(("CONFIG", "GET", *FSYNC_SETTINGS))
        *replies, wait_reply = await self._client.execute_blocking(*commands)
        failures: dict[Proof, Exception] = {}
        for ((pool, _), proofs), reply in zip(logs.items(), replies, strict=True):
            failures |= self._failures(pool, proofs, reply)
        return failures, wait_reply

    def _mark_for(self, pool: str, generation: int, seq: int) -> tuple[int, int]:
        """The position that the log must have reached, in the generation that acknowledged it."""
        known, known_seq = self._log.high_water_mark(pool)
        if generation in (0, known):
            return known, max(known_seq, seq)
        return generation, seq

    def _failures(self, pool: str, proofs: Sequence[Proof], reply: Any) -> dict[Proof, Exception]:
        """Why proofs are not valid: the error of the script or the connection, or `CommandLost`."""
        if isinstance(reply, Exception):
            return dict.fromkeys(proofs, reply)
        try:
            flags = parse_reply(pool, reply, self._log).rest[0]
        except LogError as error:
            return dict.fromkeys(proofs, error)
        checked = zip(proofs, flags, strict=True)
        return {proof: CommandLost(pool, proof.seq) for proof, valid in checked if not valid}


def _resolve(item: _Item, failures: dict[Proof, Exception], reason: str) -> None:
    failure = next((failures[proof] for proof in item.proofs if proof in failures), None)
    if isinstance(failure, LogError):
        item.future.set_exception(failure)
    else:
        item.future.set_result(f"Redis refuses: {failure}" if failure else reason)


def _failure_reason(target: WaitTarget, reply: Any) -> str:
    """Why the level was not reached; empty if it was."""
    if isinstance(reply, Exception):
        return f"Redis refuses: {reply}"
    if target.level is Level.REPLICATED:
        enough = int(reply) >= target.replicas
        return "" if enough else f"{reply} of {target.replicas} replicas have it"
    return "" if fsyncs_before_reply(fields_of(reply)) else "appendfsync was changed"
