"""Scripts run on logs, each under the floor.

A `GuardedLog` remembers, per log, the floor: the generation and the highest `seq` that this
process has acknowledged or seen archived. Every script is given the floor; a log that is below it
raises `RolledBack` and is halted, for everybody, until it was recovered. A log of a later
generation raises `Recovered` once: what was read before is void.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ResponseError

from eventstore.connection.calls import (
    UNREACHABLE,
    Absent,
    AsyncClient,
    execute,
    passing,
    refusal,
    send,
    shielded,
    unreachable,
)
from eventstore.errors import (
    Halted,
    LayoutTooNew,
    LogError,
    LogMissing,
    LogUnreachable,
    MemoryExhausted,
    NotEnoughReplicas,
    OutcomeUnknown,
    Recovered,
    RolledBack,
)
from eventstore.keys import CATALOGUE, Keys
from eventstore.log.clock import ASKED_AT_ONCE, QUIET_SECONDS, Told
from eventstore.log.replies import Outcome, Reply
from eventstore.log.script_loader import Script, script
from eventstore.steps.step import Argument


class GuardedLog:
    """Logs on one Redis, reached through one connection pool.

    `outlives`: whether its owner may go on in a log that was recovered. A worker may not: what it
    holds is no longer its own.
    """

    def __init__(self, client: AsyncClient, keys: Keys, *, outlives: bool = True) -> None:
        self.client = client
        self.keys = keys
        self.outlives = outlives
        self._floors: dict[str, tuple[int, int]] = {}
        self._acknowledged: dict[str, tuple[int, int]] = {}
        self._times: dict[str, Told] = {}
        self._clock: Told | None = None
        """Redis' own clock, or what is known of it: no log's time is behind it."""

    # ---- the log's own time and position -----------------------------------------------------

    def now_ms(self, pool: str) -> int:
        """A log's time: as it was last told, carried on by this host's monotonic clock.

        Each log has its own: where Redis' clock was set back, those that were written before are
        ahead. Of one that has told nothing yet Redis' clock is taken, of which most are not ahead.
        """
        told = self._times.get(self._meta(pool)) or self._clock
        return told.carried_on() if told else time.time_ns() // 1_000_000

    async def learn_times(self, pools: Iterable[str]) -> None:
        """Ask for the time of logs of which no reply has told it lately.

        A host that was suspended has not counted that time, and a log that is ahead goes on more
        slowly. Raises `LogUnreachable`, `LogError`.
        """
        quiet = [pool for pool in pools if self._is_quiet(pool)]
        for start in range(0, len(quiet), ASKED_AT_ONCE):
            await self._learn_times(quiet[start : start + ASKED_AT_ONCE])

    async def _learn_times(self, pools: Sequence[str]) -> None:
        seconds, micros = await self._read(CATALOGUE, "TIME")
        now = Told(int(seconds) * 1000 + int(micros) // 1000, time.monotonic())
        self._clock = now
        await asyncio.gather(*(self._learn_time(pool, now) for pool in pools))

    async def _learn_time(self, pool: str, now: Told) -> None:
        """As scripts read it. A log that is damaged holds up no other: who writes it is told."""
        try:
            ts, clock = await self._read(pool, "HMGET", self._meta(pool), "ts", "clock")
            last, then = int(ts or 0), int(clock or now.ms)
        except LogUnreachable:
            raise
        except (LogError, ValueError):
            last, then = 0, now.ms
        told = now.ms if now.ms >= last else last + max(now.ms - then, 0) // 2
        self._times[self._meta(pool)] = Told(told, now.at)

    def _is_quiet(self, pool: str) -> bool:
        told = self._times.get(self._meta(pool))
        return told is None or time.monotonic() - told.at > QUIET_SECONDS

    def floor(self, pool: str) -> tuple[int, int]:
        """(generation, seq) below which the pool's log must not be found; (0, 0) if unknown."""
        return self._floors.get(self._meta(pool), (0, 0))

    def raise_floor(self, pool: str, generation: int, seq: int) -> None:
        """Remember that this much was acknowledged or archived."""
        meta = self._meta(pool)
        self._floors[meta] = max(self._floors.get(meta, (0, 0)), (generation, seq))

    def acknowledged(self, pool: str) -> tuple[int, int]:
        """(generation, seq) of the highest that this process was told or told others of."""
        return self._acknowledged.get(self._meta(pool), (0, 0))

    def acknowledge(self, pool: str, generation: int, seq: int) -> None:
        """Remember that this much was told to somebody; it raises the floor too."""
        meta = self._meta(pool)
        self._acknowledged[meta] = max(self._acknowledged.get(meta, (0, 0)), (generation, seq))
        self.raise_floor(pool, generation, seq)

    # ---- running a script --------------------------------------------------------------------

    def _meta(self, pool: str) -> str:
        return self.keys.catalogue_meta if pool == CATALOGUE else self.keys.pool(pool, "meta")

    def _events(self, pool: str) -> str:
        return self.keys.catalogue if pool == CATALOGUE else self.keys.pool(pool, "events")

    def script_keys(self, pool: str) -> tuple[str, str]:
        """The keys that every script of this log declares."""
        return self._meta(pool), self._events(pool)

    async def _guarded(self, name: str, pool: str, *arguments: Argument) -> Reply:
        return await self.run(name, pool, *self.floor(pool), *arguments)

    async def run(self, name: str, pool: str, *arguments: Argument) -> Reply:
        """Run a script on a log, with just these arguments."""
        keys = self.script_keys(pool)
        try:
            raw = await shielded(lambda: self._evaluate(script(name), keys, arguments))
        except UNREACHABLE as error:
            if _never_sent(error):
                raise unreachable(error) from error
            raise OutcomeUnknown(f"Redis did not answer: {error}") from error
        except OutOfMemoryError as error:
            raise MemoryExhausted from error
        except ResponseError as error:
            if str(error).startswith("NOREPLICAS"):
                raise NotEnoughReplicas from error
            if passing(error):
                raise LogUnreachable(f"Redis is not ready: {error}") from error
            raise LogError(f"pool {pool!r}: script {name} failed: {error}") from error
        return judge(pool, raw, self)

    async def _evaluate(
        self, source: "Script", keys: tuple[str, str], arguments: Sequence[Argument]
    ) -> list[Any]:
        try:
            raw = await send(self.client, "EVALSHA", source.digest, 2, *keys, *arguments)
        except NoScriptError:
            raw = await send(self.client, "EVAL", source.text, 2, *keys, *arguments)
        reply: list[Any] = raw
        return reply

    def saw(self, pool: str, generation: int, seq: int, ts: int) -> None:
        """Take note of where a log stands after a reply that acknowledged something."""
        self.acknowledge(pool, generation, seq)
        if ts:
            told = self._times[self._meta(pool)] = Told(ts, time.monotonic())
            if self._clock is None or ts < self._clock.carried_on():
                self._clock = told

    async def _read(self, pool: str, *command: str) -> Sequence[Any]:
        try:
            reply: Sequence[Any] = await execute(self.client, *command)
        except UNREACHABLE as error:
            raise unreachable(error) from error
        except ResponseError as error:
            raise refusal(f"pool {pool!r}: {command[0]} failed", error) from error
        return reply


def judge(pool: str, raw: Sequence[Any], log: GuardedLog) -> Reply:
    """Turn a script's reply into a `Reply`, noting the log's position; raises on a damaged log."""
    status = raw[0].decode()
    generation, seq, ts = int(raw[1]), int(raw[2]), int(raw[3])
    if status == "MISSING":
        raise LogMissing(pool)
    if status == "HALTED":
        raise Halted(pool, raw[4].decode())
    if status == "LAYOUT":
        raise LayoutTooNew(pool, *(value.decode() for value in raw[4:6]))
    if status == "ROLLED_BACK":
        raise RolledBack(pool, log.floor(pool), (generation, seq))
    if status == "RECOVERED":
        if log.outlives:
            log.saw(pool, generation, seq, ts)
        raise Recovered(pool, generation)
    log.saw(pool, generation, seq, ts)
    outcome = Outcome.DONE if status == "OK" else Outcome(status)
    return Reply(outcome, generation, seq, ts, raw[4:])


def _never_sent(error: BaseException) -> bool:
    """Whether a connection error came before anything could reach the server."""
    if isinstance(error, BusyLoadingError | Absent):
        return True
    text = str(error)
    return text.startswith(("Error ", "Timeout connecting", "No connection available")) and (
        "while reading" not in text.lower() and "while writing" not in text.lower()
    )
