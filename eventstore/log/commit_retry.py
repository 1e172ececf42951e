"""How a change is tried again after a conflict, an unknown reply or a recovery."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from eventstore.errors import Busy, LogError, OutcomeUnknown, Recovered
from eventstore.log.replies import Reply
from eventstore.log.script_runner import ScriptRunner
from eventstore.steps.step import Step

ATTEMPTS = 8
"""How many times a step is decided at most, when other writers were faster."""

T = TypeVar("T")


class Attempts:
    """One change: a state is read, a step decided and committed, until `commit` has a reply.

    `unknown`: the error of an earlier attempt that got no reply, so it may have been written.
    """

    def __init__(self, log: ScriptRunner, pool: str, subject: str) -> None:
        self._log, self._pool, self._subject = log, pool, subject
        self._left = ATTEMPTS
        self._generation, _ = log.high_water_mark(pool)
        self.unknown: OutcomeUnknown | None = None

    async def read(self, state: Callable[[], Awaitable[T]]) -> T:
        """Start an attempt. Raises `Busy` after `ATTEMPTS`, if other writers were always faster."""
        if not self._left:
            raise self.unknown or Busy(f"{self._subject} changes too fast")
        self._left -= 1
        self._generation, _ = self._log.high_water_mark(self._pool)
        with reraise_unknown(self.unknown):
            return await state()

    async def commit(self, step: Step, *, adds_load: bool = False) -> Reply | None:
        """None if no reply came or the log was recovered: the state must be read again."""
        generation = self._generation
        try:
            with reraise_unknown(self.unknown):
                return await self._log.commit(step, read_generation=generation, adds_load=adds_load)
        except OutcomeUnknown as error:
            self.unknown = error
        except Recovered:
            if not self._log.survives_recovery:
                raise
        return None


@contextmanager
def reraise_unknown(unknown: OutcomeUnknown | None) -> Iterator[None]:
    """If an earlier attempt is unknown, raise that instead of the refusal of a later one."""
    try:
        yield
    except LogError as error:
        if unknown is None or isinstance(error, OutcomeUnknown | Recovered):
            raise
        raise unknown from error
