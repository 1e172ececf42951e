"""Waiting until what was acknowledged is on a disk, or on replicas: many commands in one wait.

A command is committed over any connection. Afterwards one script proves that its writes stand in
the data set at the other end of *this* connection (a failover may lie between) and writes once
more; WAIT and WAITAOF, which count what their own connection wrote, then cover it and all before.

A connection that waits can do nothing else, so there are a few, apart from those of the log. What
arrives while others wait is gathered for a moment and goes together.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from msgspec import Struct
from redis.exceptions import RedisError

from eventstore.connection.calls import UNREACHABLE, AsyncClient, shielded
from eventstore.connection.clients import connect_blocking
from eventstore.durability.capability import Capability, Fsync, on_reply, pairs
from eventstore.errors import CommandLost, LogError
from eventstore.language.durability import Level
from eventstore.log.log import Log
from eventstore.log.replies import Proof
from eventstore.log.script_loader import script
from eventstore.log.script_runner import judge

LANES: Final = 8
"""So many connections wait at a time, for each level."""
LINGER_SECONDS: Final = 0.02
"""For each one that waits already, the next gathers so much longer."""
BATCH_MAX: Final = 500
LONGEST_SECONDS: Final = 60.0
TICK_MS: Final = 120
"""A server looks for waits that are over ten times a second."""


class How(Struct, frozen=True):
    """What is waited for. `run_id`: the server that this was found possible on."""

    level: Level
    replicas: int = 1
    fsync: Fsync = Fsync.ON_REPLY
    run_id: str = ""


LogOf: TypeAlias = tuple[str, int]
"""A pool's log of one generation."""


class _Item(Struct, eq=False):
    proofs: Sequence[Proof]
    deadline: float
    answer: "asyncio.Future[str]"


class Confirmations:
    """Confirms commands of one log. `close` gives up what still waits."""

    def __init__(self, log: Log, url: str) -> None:
        self._log = log
        self._client: AsyncClient = connect_blocking(
            url, block_seconds=LONGEST_SECONDS, max_connections=2 * LANES
        )
        self._waiting: dict[How, deque[_Item]] = {}
        self._lanes: dict[How, set[asyncio.Task[None]]] = {}

    async def close(self) -> None:
        lanes = [lane for tasks in self._lanes.values() for lane in tasks]
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
        await self._client.aclose()

    async def confirm(self, how: How, proofs: Sequence[Proof], deadline: float) -> str:
        """Wait until the level is reached; else why it was not by `deadline` (the loop's time).

        Raises `CommandLost`, `RolledBack` or `LogMissing` where the writes are not there.
        """
        loop = asyncio.get_running_loop()
        item = _Item(proofs, deadline, loop.create_future())
        self._waiting.setdefault(how, deque()).append(item)
        lanes = self._lanes.setdefault(how, set())
        if len(lanes) < LANES:
            lane = asyncio.create_task(self._lane(how, len(lanes) * LINGER_SECONDS))
            lanes.add(lane)
        try:
            async with asyncio.timeout_at(deadline):
                return await item.answer
        except TimeoutError:
            return _late(how)

    # ---- one connection ----------------------------------------------------------------------

    async def _lane(self, how: How, linger: float) -> None:
        """Wait for one batch after another, until nothing is left."""
        task = asyncio.current_task()
        assert task is not None
        try:
            if linger:
                await asyncio.sleep(linger)
            while batch := self._take(how):
                await self._settle(how, batch)
        finally:
            self._lanes[how].discard(task)

    def _take(self, how: How) -> list[_Item]:
        """The next ones whose callers still wait."""
        waiting = self._waiting[how]
        batch: list[_Item] = []
        while waiting and len(batch) < BATCH_MAX:
            item = waiting.popleft()
            if not item.answer.done():
                batch.append(item)
        return batch

    async def _settle(self, how: How, batch: Sequence[_Item]) -> None:
        longest = max(item.deadline for item in batch) - asyncio.get_running_loop().time()
        try:
            logs, tail = await self._ask(how, batch, _wait_ms(longest))
        except UNREACHABLE as error:
            _tell(batch, f"Redis does not answer: {error}")
        except RedisError as error:
            _tell(batch, f"Redis refuses: {error}")
        else:
            why = verdict(how, tail)
            for item in batch:
                self._answer(item, logs, why)

    async def _ask(
        self, how: How, batch: Sequence[_Item], wait_ms: int
    ) -> tuple[dict[LogOf, Any], list[Any]]:
        """Prove all of them, log by log, and wait behind that, over one connection."""
        proofs: dict[LogOf, list[Proof]] = {}
        for item in batch:
            for proof in item.proofs:
                proofs.setdefault(_log_of(proof), []).append(proof)
        pipe = self._client.pipeline(transaction=False)
        for (pool, generation), asked in proofs.items():
            values = [text for p in asked for text in (p.kind, p.subject, p.value)]
            floor = self._floor(pool, generation, max(p.seq for p in asked))
            keys = self._log.script_keys(pool)
            pipe.execute_command("EVAL", script("confirm").text, 2, *keys, *floor, *values)
        for command in waiting(how, wait_ms):
            pipe.execute_command(*command)
        replies = await shielded(lambda: pipe.execute(raise_on_error=False))
        told = {
            where: self._proved(where[0], asked, reply)
            for (where, asked), reply in zip(proofs.items(), replies, strict=False)
        }
        return told, replies[len(proofs) :]

    def _floor(self, pool: str, generation: int, seq: int) -> tuple[int, int]:
        """Where the log must be: in the generation that acknowledged it, and no less far."""
        known, known_seq = self._log.floor(pool)
        if generation in (0, known):
            return known, max(known_seq, seq)
        return generation, seq

    def _proved(self, pool: str, asked: Sequence[Proof], reply: Any) -> Any:
        """Which proofs stand; or the error that the script, or its absence, amounts to."""
        if isinstance(reply, Exception):
            return reply
        try:
            stands = judge(pool, reply, self._log).rest[0]
        except LogError as error:
            return error
        return {proof for proof, stood in zip(asked, stands, strict=True) if stood}

    def _answer(self, item: _Item, logs: dict[LogOf, Any], why: str) -> None:
        if item.answer.done():
            return
        for proof in item.proofs:
            found = logs[_log_of(proof)]
            if isinstance(found, LogError):
                item.answer.set_exception(found)
                return
            if isinstance(found, Exception):
                item.answer.set_result(f"Redis refuses: {found}")
                return
            if proof not in found:
                item.answer.set_exception(CommandLost(proof.pool, proof.seq))
                return
        item.answer.set_result(why)


def _log_of(proof: Proof) -> LogOf:
    return proof.pool, proof.generation


def _tell(batch: Sequence[_Item], why: str) -> None:
    for item in batch:
        if not item.answer.done():
            item.answer.set_result(why)


def _wait_ms(seconds: float) -> int:
    """For how long the server may wait, so that its answer comes before our patience ends."""
    whole = int(seconds * 1000)
    return max(whole - TICK_MS, whole // 2, 1)


def waiting(how: How, wait_ms: int) -> list[tuple[str | int, ...]]:
    """What is sent behind the proofs; `verdict` reads the replies."""
    if how.level is Level.REPLICATED:
        return [("WAIT", how.replicas, wait_ms)]
    if how.fsync is Fsync.WAITAOF:
        return [("INFO", "server"), ("WAITAOF", 1, 0, wait_ms)]
    return [("CONFIG", "GET", "appendfsync"), ("CONFIG", "GET", "no-appendfsync-on-rewrite")]


def verdict(how: How, replies: Sequence[Any]) -> str:
    """Why the level was not reached; empty if it was."""
    for reply in replies:
        if isinstance(reply, Exception):
            return f"Redis refuses: {reply}"
    if how.level is Level.REPLICATED:
        got = int(replies[0])
        return "" if got >= how.replicas else f"{got} of {how.replicas} replicas have it"
    if how.fsync is Fsync.WAITAOF:
        same = str(replies[0].get("run_id", "")) == how.run_id
        if not same:
            return "another server has taken over"
        return "" if int(replies[1][0]) >= 1 else _late(how)
    return "" if on_reply(pairs(replies[0]) | pairs(replies[1])) else "appendfsync was changed"


def _late(how: How) -> str:
    what = "acknowledged by enough replicas" if how.level is Level.REPLICATED else "fsynced"
    return f"not {what} in time"


def how_for(level: Level, capability: Capability, replicas: int) -> How:
    """What to wait for, for a level that Redis gives."""
    if level is Level.REPLICATED:
        return How(level, replicas=replicas)
    if capability.fsync is Fsync.WAITAOF:
        return How(level, fsync=Fsync.WAITAOF, run_id=capability.run_id)
    return How(level)
