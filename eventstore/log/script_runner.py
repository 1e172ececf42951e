"""Runs scripts on logs, each with a high-water mark.

A `ScriptRunner` stores a high-water mark for each log: the generation and the highest `seq` that
this process has acknowledged or knows to be archived. Every script gets it. A log below it raises
`RolledBack` and is halted for all processes until it is recovered. A log of a later generation
raises `Recovered` once: states that were read before are invalid.

A script is a shebang, constants, the shared prelude and its own text. `claim` and `place` also get
what both do to book a slot, and a function that checks an agent's fields: they book only agents
that `steps.hashes` can read.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any, Final
from weakref import WeakValueDictionary

from msgspec import Struct

from eventstore import errors
from eventstore.connection import calls
from eventstore.connection.denials import denied_in_script
from eventstore.connection.reply_parser import Argument
from eventstore.connection.wire import NotSent
from eventstore.keys import CATALOGUE, Keys
from eventstore.log.group_commit import CommitQueue
from eventstore.log.replies import Outcome, Reply
from eventstore.redis_errors import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ResponseError,
)
from eventstore.steps import hashes
from eventstore.steps.step import Step

CLOCK_STALE_SECONDS: Final = 30.0
"""Without a reply for so long, a log's time is asked for."""
CLOCK_BATCH: Final = 100
"""How many logs are asked for their time at once."""
_OUTCOMES: Final = {b"OK": Outcome.DONE} | {outcome.encode(): outcome for outcome in Outcome}


class ClockReading(Struct, frozen=True):
    """The last known time of Redis or of a log, so that most commits need not ask for it.

    In ms, and with the time at which it was read by this host's monotonic clock.
    """

    ms: int
    read_at: float

    def current_ms(self) -> int:
        return self.ms + int((time.monotonic() - self.read_at) * 1000)


class Script(Struct, frozen=True):
    text: str
    digest: str


@cache
def script(name: str) -> Script:
    """A script's complete text and its digest.

    `admit` is `commit` within Redis' memory limit; `restore` is `commit` on a halted log.
    """
    folder = files("eventstore.log") / "lua"
    flags = {"admit": "", "survey": " flags=no-writes"}.get(name, " flags=allow-oom")
    constants = f"local SCRIPT = '{name}'"
    body = ["commit" if name in ("admit", "restore") else name]
    if name in ("claim", "place"):
        constants += f"\n{hashes.AGENT.lua_check()}"
        body = ["booking", name]
    parts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("prelude", *body)]
    text = "\n".join((f"#!lua{flags}", constants, *parts))
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class ScriptRunner:
    """Logs on one Redis, reached through one connection pool.

    `survives_recovery`: whether its owner may continue after a log was recovered. A worker may
    not: its agents were released.
    """

    def __init__(
        self, client: calls.AsyncClient, keys: Keys, *, survives_recovery: bool = True
    ) -> None:
        self.client = client
        self.keys = keys
        self.survives_recovery = survives_recovery
        self.on_answered: Callable[[str, str, float], None] | None = None
        """Called with the name of a script, the log, and how many seconds its answer took."""
        self._high_water_marks: dict[str, tuple[int, int]] = {}
        self._acknowledged: dict[str, tuple[int, int]] = {}
        self._clocks: dict[str, ClockReading] = {}
        self._queues: WeakValueDictionary[tuple[str, str], CommitQueue] = WeakValueDictionary()
        """By script and pool, for as long as a step waits or is under way."""
        self._redis_clock: ClockReading | None = None
        """Redis' own clock, as far as it is known: no log's time is behind it."""

    # ---- the log's own time and position -----------------------------------------------------

    def now_ms(self, pool: str) -> int:
        """A log's time: the last known one, advanced by this host's monotonic clock.

        Each log has its own: if Redis' clock was set back, logs that were written before are ahead
        of it. If a log's time is not known yet, this is Redis' clock; most logs are not ahead.
        """
        reading = self._clocks.get(pool) or self._redis_clock
        return reading.current_ms() if reading else time.time_ns() // 1_000_000

    async def refresh_clocks(self, pools: Iterable[str]) -> None:
        """Ask for the time of logs that have not replied for `CLOCK_STALE_SECONDS`.

        The monotonic clock stops while a host is suspended, and a log that is ahead runs more
        slowly. Raises `LogUnreachable`, `LogError`.
        """
        oldest = time.monotonic() - CLOCK_STALE_SECONDS
        readings = ((pool, self._clocks.get(pool)) for pool in pools)
        stale = [pool for pool, last in readings if last is None or last.read_at < oldest]
        for start in range(0, len(stale), CLOCK_BATCH):
            seconds, micros = await self._read(CATALOGUE, "TIME")
            now = ClockReading(int(seconds) * 1000 + int(micros) // 1000, time.monotonic())
            self._redis_clock = now
            batch = stale[start : start + CLOCK_BATCH]
            await asyncio.gather(*(self._refresh_clock(pool, now) for pool in batch))

    async def _refresh_clock(self, pool: str, now: ClockReading) -> None:
        """As scripts compute it. A damaged log delays no other: its writers get the error."""
        try:
            ts, clock = await self._read_meta(pool, "ts", "clock")
            last_ts, last_clock = int(ts or 0), int(clock or now.ms)
        except errors.LogUnreachable:
            raise
        except (errors.LogError, ValueError):
            last_ts, last_clock = 0, now.ms
        log_ms = now.ms if now.ms >= last_ts else last_ts + max(now.ms - last_clock, 0) // 2
        self._clocks[pool] = ClockReading(log_ms, now.read_at)

    def high_water_mark(self, pool: str) -> tuple[int, int]:
        """(generation, seq) that the pool's log must not be below; (0, 0) if unknown."""
        return self._high_water_marks.get(pool, (0, 0))

    def raise_high_water_mark(self, pool: str, generation: int, seq: int) -> None:
        """Remember that this much was acknowledged or archived."""
        self._high_water_marks[pool] = max(self.high_water_mark(pool), (generation, seq))

    def acknowledged(self, pool: str) -> tuple[int, int]:
        """The highest (generation, seq) that a reply reported or that was reported to a client."""
        return self._acknowledged.get(pool, (0, 0))

    def acknowledge(self, pool: str, generation: int, seq: int) -> None:
        """Remember that this much was reported; it raises the high-water mark, too."""
        self._acknowledged[pool] = max(self.acknowledged(pool), (generation, seq))
        self.raise_high_water_mark(pool, generation, seq)

    # ---- running a script --------------------------------------------------------------------

    def script_keys(self, pool: str) -> tuple[str, str]:
        """The keys that every script of this log declares."""
        return self.keys.pool(pool, "meta"), self.keys.pool(pool, "events")

    async def _run_guarded(self, name: str, pool: str, *arguments: Argument) -> Reply:
        return await self.run_script(name, pool, *self.high_water_mark(pool), *arguments)

    async def commit(
        self, step: Step, *, adds_load: bool = False, read_generation: int = 0
    ) -> Reply:
        """Commit a step once. `adds_load`: Redis' memory limit may refuse it.

        `read_generation`: the generation that the step was decided in, 0 if any is allowed. In a
        later one versions prove nothing: a lost state and its replacement may have the same.

        Raises `LogUnreachable` (`Recovered`, `NotEnoughReplicas` among them), `OutcomeUnknown`,
        `LogMissing`, `RolledBack`, `Halted`, `MemoryExhausted`.
        """
        generation, _ = self.high_water_mark(step.pool)
        if 0 < read_generation < generation:
            raise errors.Recovered(step.pool, generation)
        name = "admit" if adds_load else "commit"
        queue = self._queues.get((name, step.pool)) or self._queue(name, step.pool)
        call, raw = await queue.add(step.encode(), read_generation or generation)
        return self.step_reply(name, step.pool, call, raw)

    def step_reply(self, name: str, pool: str, call: Reply, raw: Any) -> Reply:
        """The reply to one of the steps of a call. Raises if the step failed."""
        if isinstance(raw, ResponseError):
            raise self._refusal(name, pool, raw) from raw
        return Reply(_OUTCOMES[raw[0]], call.generation, raw[1], call.ts, raw[2:])

    def _queue(self, name: str, pool: str) -> CommitQueue:
        run = partial(self._run_guarded, name, pool)
        queue = CommitQueue(pool, run, lambda: self.high_water_mark(pool)[0])
        self._queues[name, pool] = queue
        return queue

    async def run_script(self, name: str, pool: str, *arguments: Argument) -> Reply:
        """Run a script on a log with exactly these arguments."""
        keys = self.script_keys(pool)
        started_at = time.perf_counter()
        try:
            raw = await self._evaluate(script(name), keys, arguments)
        except calls.UNREACHABLE as error:
            if _never_sent(error):
                raise calls.unreachable(error) from error
            raise errors.OutcomeUnknown(f"Redis did not answer: {error}") from error
        except OutOfMemoryError as error:
            raise errors.MemoryExhausted from error
        except ResponseError as error:
            raise self._refusal(name, pool, error) from error
        if self.on_answered is not None:
            self.on_answered(name, pool, time.perf_counter() - started_at)
        return parse_reply(pool, raw, self)

    def _refusal(self, name: str, pool: str, error: ResponseError) -> errors.LogError:
        doing = f"pool {pool!r}: script {name} failed"
        if denied := denied_in_script(error, self.script_keys(pool)):
            return errors.LogError(f"{doing}: {denied}")
        return calls.refusal(doing, error)

    async def _evaluate(
        self, source: Script, keys: tuple[str, str], arguments: Sequence[Argument]
    ) -> Any:
        try:
            return await self.client.execute_command("EVALSHA", source.digest, 2, *keys, *arguments)
        except NoScriptError:
            return await self.client.execute_command("EVAL", source.text, 2, *keys, *arguments)

    def record_position(self, pool: str, generation: int, seq: int, ts: int) -> None:
        """Store the position and time of a log that a reply has reported."""
        self.acknowledge(pool, generation, seq)
        if ts:
            reading = self._clocks[pool] = ClockReading(ts, time.monotonic())
            if self._redis_clock is None or ts < self._redis_clock.current_ms():
                self._redis_clock = reading

    async def _read(self, pool: str, *command: str) -> Any:
        doing = f"pool {pool!r}: {command[0]} failed"
        return await calls.ask(self.client, *command, doing=doing)

    async def _read_meta(self, pool: str, *fields: str) -> Any:
        return await self._read(pool, "HMGET", self.keys.pool(pool, "meta"), *fields)


def parse_reply(pool: str, raw: Sequence[Any], log: ScriptRunner) -> Reply:
    """Decode a script's reply and store the log's position. Raises if the log is damaged."""
    status = raw[0].decode()
    generation, seq, ts = int(raw[1]), int(raw[2]), int(raw[3])
    if status == "MISSING":
        raise errors.LogMissing(pool)
    if status == "HALTED":
        raise errors.Halted(pool, raw[4].decode())
    if status == "LAYOUT":
        raise errors.LayoutTooNew(pool, *(value.decode() for value in raw[4:6]))
    if status == "ROLLED_BACK":
        raise errors.RolledBack(pool, log.high_water_mark(pool), (generation, seq))
    if status == "RECOVERED":
        if log.survives_recovery:
            log.record_position(pool, generation, seq, ts)
        raise errors.Recovered(pool, generation)
    log.record_position(pool, generation, seq, ts)
    return Reply(_OUTCOMES[raw[0]], generation, seq, ts, raw[4:])


def _never_sent(error: BaseException) -> bool:
    """Whether a connection error happened before anything was run."""
    return isinstance(error, BusyLoadingError | NotSent | AuthenticationError)
