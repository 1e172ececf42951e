"""Scripts run on logs, each under the floor.

A `GuardedLog` remembers, per log, the floor: the generation and the highest `seq` that this
process has acknowledged or seen archived. Every script is given the floor; a log that is below it
raises `RolledBack` and is halted, for everybody, until it was recovered. A log of a later
generation raises `Recovered` once: what was read before is void.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ResponseError

from eventstore.connection.calls import (
    UNREACHABLE,
    AsyncClient,
    NotSent,
    ask,
    is_transient,
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
from eventstore.log.clock import CLOCK_BATCH, CLOCK_STALE_SECONDS, ClockReading
from eventstore.log.replies import Outcome, Reply
from eventstore.log.script_loader import Script, script
from eventstore.steps.step import Step

Argument: TypeAlias = str | bytes | int


class ScriptRunner:
    """Logs on one Redis, reached through one connection pool.

    `outlives`: whether its owner may go on in a log that was recovered. A worker may not: what it
    holds is no longer its own.
    """

    def __init__(self, client: AsyncClient, keys: Keys, *, survives_recovery: bool = True) -> None:
        self.client = client
        self.keys = keys
        self.survives_recovery = survives_recovery
        self._high_water_marks: dict[str, tuple[int, int]] = {}
        self._acknowledged: dict[str, tuple[int, int]] = {}
        self._clocks: dict[str, ClockReading] = {}
        self._redis_clock: ClockReading | None = None
        """Redis' own clock, or what is known of it: no log's time is behind it."""

    # ---- the log's own time and position -----------------------------------------------------

    def now_ms(self, pool: str) -> int:
        """A log's time: as it was last told, carried on by this host's monotonic clock.

        Each log has its own: where Redis' clock was set back, those that were written before are
        ahead. Of one that has told nothing yet Redis' clock is taken, of which most are not ahead.
        """
        reading = self._clocks.get(self._meta_key(pool)) or self._redis_clock
        return reading.current_ms() if reading else time.time_ns() // 1_000_000

    async def refresh_clocks(self, pools: Iterable[str]) -> None:
        """Ask for the time of logs of which no reply has told it lately.

        A host that was suspended has not counted that time, and a log that is ahead goes on more
        slowly. Raises `LogUnreachable`, `LogError`.
        """
        stale = [pool for pool in pools if self._is_clock_stale(pool)]
        for start in range(0, len(stale), CLOCK_BATCH):
            await self._refresh_clocks(stale[start : start + CLOCK_BATCH])

    async def _refresh_clocks(self, pools: Sequence[str]) -> None:
        seconds, micros = await self._read(CATALOGUE, "TIME")
        now = ClockReading(int(seconds) * 1000 + int(micros) // 1000, time.monotonic())
        self._redis_clock = now
        await asyncio.gather(*(self._refresh_clock(pool, now) for pool in pools))

    async def _refresh_clock(self, pool: str, now: ClockReading) -> None:
        """As scripts read it. A log that is damaged holds up no other: who writes it is told."""
        try:
            ts, clock = await self._read(pool, "HMGET", self._meta_key(pool), "ts", "clock")
            last_ts, last_clock = int(ts or 0), int(clock or now.ms)
        except LogUnreachable:
            raise
        except (LogError, ValueError):
            last_ts, last_clock = 0, now.ms
        log_ms = now.ms if now.ms >= last_ts else last_ts + max(now.ms - last_clock, 0) // 2
        self._clocks[self._meta_key(pool)] = ClockReading(log_ms, now.read_at)

    def _is_clock_stale(self, pool: str) -> bool:
        reading = self._clocks.get(self._meta_key(pool))
        return reading is None or time.monotonic() - reading.read_at > CLOCK_STALE_SECONDS

    def high_water_mark(self, pool: str) -> tuple[int, int]:
        """(generation, seq) below which the pool's log must not be found; (0, 0) if unknown."""
        return self._high_water_marks.get(self._meta_key(pool), (0, 0))

    def raise_high_water_mark(self, pool: str, generation: int, seq: int) -> None:
        """Remember that this much was acknowledged or archived."""
        key = self._meta_key(pool)
        self._high_water_marks[key] = max(
            self._high_water_marks.get(key, (0, 0)), (generation, seq)
        )

    def acknowledged(self, pool: str) -> tuple[int, int]:
        """(generation, seq) of the highest that this process was told or told others of."""
        return self._acknowledged.get(self._meta_key(pool), (0, 0))

    def acknowledge(self, pool: str, generation: int, seq: int) -> None:
        """Remember that this much was told to somebody; it raises the floor too."""
        key = self._meta_key(pool)
        self._acknowledged[key] = max(self._acknowledged.get(key, (0, 0)), (generation, seq))
        self.raise_high_water_mark(pool, generation, seq)

    # ---- running a script --------------------------------------------------------------------

    def _meta_key(self, pool: str) -> str:
        return self.keys.catalogue_meta if pool == CATALOGUE else self.keys.pool(pool, "meta")

    def _events_key(self, pool: str) -> str:
        return self.keys.catalogue if pool == CATALOGUE else self.keys.pool(pool, "events")

    def script_keys(self, pool: str) -> tuple[str, str]:
        """The keys that every script of this log declares."""
        return self._meta_key(pool), self._events_key(pool)

    async def _run_guarded(self, name: str, pool: str, *arguments: Argument) -> Reply:
        return await self.run_script(name, pool, *self.high_water_mark(pool), *arguments)

    async def commit(
        self, step: Step, *, adds_load: bool = False, read_generation: int = 0
    ) -> Reply:
        """Commit a step once. `adds_load`: Redis' memory limit may refuse it.

        `read_generation`: the generation that the step was decided in, 0 where any will do. In a
        later one a version means nothing: what was lost and what came instead may both have it.

        Raises `LogUnreachable` (`Recovered`, `NotEnoughReplicas` among them), `OutcomeUnknown`,
        `LogMissing`, `RolledBack`, `Halted`, `MemoryExhausted`.
        """
        generation, _ = self.high_water_mark(step.pool)
        if 0 < read_generation < generation:
            raise Recovered(step.pool, generation)
        return await self._run_guarded("admit" if adds_load else "commit", step.pool, step.encode())

    async def run_script(self, name: str, pool: str, *arguments: Argument) -> Reply:
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
            if is_transient(error):
                raise LogUnreachable(f"Redis is not ready: {error}") from error
            raise LogError(f"pool {pool!r}: script {name} failed: {error}") from error
        return parse_reply(pool, raw, self)

    async def _evaluate(
        self, source: "Script", keys: tuple[str, str], arguments: Sequence[Argument]
    ) -> list[Any]:
        try:
            raw = await send(self.client, "EVALSHA", source.digest, 2, *keys, *arguments)
        except NoScriptError:
            raw = await send(self.client, "EVAL", source.text, 2, *keys, *arguments)
        reply: list[Any] = raw
        return reply

    def record_position(self, pool: str, generation: int, seq: int, ts: int) -> None:
        """Take note of where a log stands after a reply that acknowledged something."""
        self.acknowledge(pool, generation, seq)
        if ts:
            reading = self._clocks[self._meta_key(pool)] = ClockReading(ts, time.monotonic())
            if self._redis_clock is None or ts < self._redis_clock.current_ms():
                self._redis_clock = reading

    async def _read(self, pool: str, *command: str) -> Sequence[Any]:
        doing = f"pool {pool!r}: {command[0]} failed"
        reply: Sequence[Any] = await ask(self.client, *command, doing=doing)
        return reply


def parse_reply(pool: str, raw: Sequence[Any], log: ScriptRunner) -> Reply:
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
        raise RolledBack(pool, log.high_water_mark(pool), (generation, seq))
    if status == "RECOVERED":
        if log.survives_recovery:
            log.record_position(pool, generation, seq, ts)
        raise Recovered(pool, generation)
    log.record_position(pool, generation, seq, ts)
    outcome = Outcome.DONE if status == "OK" else Outcome(status)
    return Reply(outcome, generation, seq, ts, raw[4:])


def _never_sent(error: BaseException) -> bool:
    """Whether a connection error came before anything could reach the server."""
    if isinstance(error, BusyLoadingError | NotSent):
        return True
    text = str(error)
    return text.startswith(("Error ", "Timeout connecting", "No connection available")) and (
        "while reading" not in text.lower() and "while writing" not in text.lower()
    )
