"""Equal queries that wait at the same time are answered once.

A query is only shared by callers who came before it started: each gets an answer that is no older
than its question. So of equal queries at most one runs, and one waits for it to end. What is shared
is what a query found by its own arguments: who may see less asks another one. A query that nobody
waits for any more is cancelled, in the database too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class _Query:
    def __init__(self) -> None:
        self.callers = 0
        self.task: asyncio.Task[Any] | None = None


class SharedQueries:
    """The queries of one database that run or wait, by what they ask."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, _Query] = {}
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def ask(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The answer of `work`, or of one that is equal and has not started yet."""
        query = self._waiting.get(key)
        if query is None:
            query = self._waiting[key] = _Query()
            query.task = asyncio.create_task(self._run(key, query, work), name="views.query")
            # Its callers may be gone.
            query.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        assert query.task is not None
        query.callers += 1
        try:
            answer: T = await asyncio.shield(query.task)
            return answer
        finally:
            query.callers -= 1
            if not query.callers:
                self._forget(key, query)
                query.task.cancel()

    async def _run(self, key: Hashable, query: _Query, work: Callable[[], Awaitable[T]]) -> T:
        try:
            while before := self._running.get(key):
                await asyncio.wait([before])
        finally:
            self._forget(key, query)
        assert query.task is not None
        self._running[key] = query.task
        try:
            return await work()
        finally:
            del self._running[key]

    def _forget(self, key: Hashable, query: _Query) -> None:
        """Let nobody else join it."""
        if self._waiting.get(key) is query:
            del self._waiting[key]
