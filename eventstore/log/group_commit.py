"""Commits what is asked for at the same time in one call of a script: one call per pool at a time.

Each step is checked and written by itself, all or nothing, in the order in which it was asked for,
and sees what those before it have written. What comes while a call is under way goes out in the
next. A caller that is cancelled before is left out.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

from msgspec import Struct

from eventstore.errors import Recovered
from eventstore.log.replies import Reply

STEPS_MAX: Final = 100
BYTES_MAX: Final = 1_000_000
"""Of the steps of one call; one that is larger goes alone."""

Run: TypeAlias = Callable[..., Awaitable[Reply]]
"""Runs encoded steps; the reply's `rest` has that to each."""


class _Item(Struct, eq=False):
    step: bytes
    generation: int
    future: "asyncio.Future[tuple[Reply, Any]]"


class CommitQueue:
    """The steps of one pool that wait. `generation()`: the log's, as far as it is known."""

    def __init__(self, pool: str, run: Run, generation: Callable[[], int]) -> None:
        self._pool, self._run, self._generation = pool, run, generation
        self._waiting: deque[_Item] = deque()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def add(self, step: bytes, generation: int) -> "asyncio.Future[tuple[Reply, Any]]":
        """The reply of the call and that to this step. Raises what the call raises, or `Recovered`.

        `generation`: the log's as far as it is known; in a later one the step is not sent.
        """
        future: asyncio.Future[tuple[Reply, Any]] = self._loop.create_future()
        self._waiting.append(_Item(step, generation, future))
        if self._task is None:
            self._task = self._loop.create_task(self._commit())
        return future

    async def _commit(self) -> None:
        try:
            while batch := self._next():
                await self._commit_batch(batch)
        finally:
            self._task = None
            for item in self._waiting:  # the loop ends
                item.future.cancel()
            self._waiting.clear()

    def _next(self) -> list[_Item]:
        batch: list[_Item] = []
        size, known = 0, self._generation()
        while self._waiting and len(batch) < STEPS_MAX:
            item = self._waiting[0]
            if batch and size + len(item.step) > BYTES_MAX:
                break
            self._waiting.popleft()
            if item.future.done():
                continue
            if 0 < item.generation < known:
                item.future.set_exception(Recovered(self._pool, known))
                continue
            size += len(item.step)
            batch.append(item)
        return batch

    async def _commit_batch(self, batch: Sequence[_Item]) -> None:
        try:
            call = await self._run(*(item.step for item in batch))
            for item, reply in zip(batch, call.rest[0], strict=True):
                if not item.future.done():
                    item.future.set_result((call, reply))
        except Exception as error:  # noqa: BLE001  each caller gets it
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(error)
