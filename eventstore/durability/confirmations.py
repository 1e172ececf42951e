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
from typing import Any, Final, TypeAlias

from msgspec import Struct
from redis.exceptions import RedisError

from eventstore.connection.calls import UNREACHABLE, AsyncClient, shielded
from eventstore.connection.clients import connect_blocking
from eventstore.durability.capability import fsyncs_before_reply, pairs
from eventstore.errors import CommandLost, LogError
from eventstore.language.durability import Level
from eventstore.log.log import Log
from eventstore.log.replies import Proof
from eventstore.log.script_runner import parse_reply, script

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


LogKey: TypeAlias = tuple[str, int]
"""A pool's log of one generation."""


class _Item(Struct, eq=False):
    proofs: Sequence[Proof]
    deadline: float
    future: "asyncio.Future[str]"


class Confirmations:
    """Confirms commands of one log. `close` cancels what still waits."""

    def __init__(self, log: Log, url: str) -> None:
        self._log = log
        self._client: AsyncClient = connect_blocking(
            url, block_seconds=WAIT_SECONDS_MAX, max_connections=2 * TASKS_MAX
        )
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
            return _timeout_reason(target)

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
        try:
            results, wait_replies = await self._send_batch(target, batch, _wait_ms(seconds_left))
        except UNREACHABLE as error:
            _resolve_all(batch, f"Redis does not answer: {error}")
        except RedisError as error:
            _resolve_all(batch, f"Redis refuses: {error}")
        else:
            reason = failure_reason(target, wait_replies)
            for item in batch:
                self._resolve(item, results, reason)

    async def _send_batch(
        self, target: WaitTarget, batch: Sequence[_Item], wait_ms: int
    ) -> tuple[dict[LogKey, Any], list[Any]]:
        """Prove all of them, log by log, and wait behind that, over one connection."""
        proofs: dict[LogKey, list[Proof]] = {}
        for item in batch:
            for proof in item.proofs:
                proofs.setdefault(_log_key(proof), []).append(proof)
        pipe = self._client.pipeline(transaction=False)
        for (pool, generation), group in proofs.items():
            values = [text for p in group for text in (p.kind, p.subject, p.value)]
            mark = self._mark_for(pool, generation, max(p.seq for p in group))
            keys = self._log.script_keys(pool)
            pipe.execute_command("EVAL", script("confirm").text, 2, *keys, *mark, *values)
        for command in wait_commands(target, wait_ms):
            pipe.execute_command(*command)
        replies = await shielded(lambda: pipe.execute(raise_on_error=False))
        results = {
            log_key: self._valid_proofs(log_key[0], asked, reply)
            for (log_key, asked), reply in zip(proofs.items(), replies, strict=False)
        }
        return results, replies[len(proofs) :]

    def _mark_for(self, pool: str, generation: int, seq: int) -> tuple[int, int]:
        """The position that the log must have reached, in the generation that acknowledged it."""
        known, known_seq = self._log.high_water_mark(pool)
        if generation in (0, known):
            return known, max(known_seq, seq)
        return generation, seq

    def _valid_proofs(self, pool: str, proofs: Sequence[Proof], reply: Any) -> Any:
        """Which proofs are valid; or the error of the script or the connection."""
        if isinstance(reply, Exception):
            return reply
        try:
            flags = parse_reply(pool, reply, self._log).rest[0]
        except LogError as error:
            return error
        return {proof for proof, valid in zip(proofs, flags, strict=True) if valid}

    def _resolve(self, item: _Item, results: dict[LogKey, Any], reason: str) -> None:
        if item.future.done():
            return
        for proof in item.proofs:
            found = results[_log_key(proof)]
            if isinstance(found, LogError):
                item.future.set_exception(found)
                return
            if isinstance(found, Exception):
                item.future.set_result(f"Redis refuses: {found}")
                return
            if proof not in found:
                item.future.set_exception(CommandLost(proof.pool, proof.seq))
                return
        item.future.set_result(reason)


def _log_key(proof: Proof) -> LogKey:
    return proof.pool, proof.generation


def _resolve_all(batch: Sequence[_Item], reason: str) -> None:
    for item in batch:
        if not item.future.done():
            item.future.set_result(reason)


def _wait_ms(seconds: float) -> int:
    """For how long the server may wait, so that its reply comes before our deadline."""
    limit_ms = int(seconds * 1000)
    return max(limit_ms - TICK_MS, limit_ms // 2, 1)


def wait_commands(target: WaitTarget, wait_ms: int) -> list[tuple[str | int, ...]]:
    """What is sent behind the proofs; `failure_reason` reads the replies."""
    if target.level is Level.REPLICATED:
        return [("WAIT", target.replicas, wait_ms)]
    return [("CONFIG", "GET", "appendfsync"), ("CONFIG", "GET", "no-appendfsync-on-rewrite")]


def failure_reason(target: WaitTarget, replies: Sequence[Any]) -> str:
    """Why the level was not reached; empty if it was."""
    for reply in replies:
        if isinstance(reply, Exception):
            return f"Redis refuses: {reply}"
    if target.level is Level.REPLICATED:
        acknowledged = int(replies[0])
        enough = acknowledged >= target.replicas
        return "" if enough else f"{acknowledged} of {target.replicas} replicas have it"
    fsyncs = fsyncs_before_reply(pairs(replies[0]) | pairs(replies[1]))
    return "" if fsyncs else "appendfsync was changed"


def _timeout_reason(target: WaitTarget) -> str:
    expected = "acknowledged by enough replicas" if target.level is Level.REPLICATED else "fsynced"
    return f"not {expected} in time"
