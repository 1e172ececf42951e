"""Threads of agents: each incarnation has a pool of its own, and what runs in one belongs to it.

The default pool of an event loop is shared, and small: an agent that parks six calls in it stops
`asyncio.to_thread` of its neighbours. So `run_in_executor(None, …)` of an agent uses a pool of that
incarnation, made on first use, with at most `threads_per_agent` threads; the worker's own calls use
another. A call in any pool of threads, an agent's own or a module's, belongs to the incarnation
that submitted it. The incarnation has ended when these calls have.

A thread that was started otherwise has the agent's ids in what it prints. It is no call, and cannot
be ended: it is reported when the agent ends, and ends with the worker.
"""

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Final

import structlog

from workers.output.lines import CURRENT, Owner
from workers.runtime.stacks import thread_stack

POLL_SECONDS: Final = 0.03
NAMES_MAX: Final = 20

_SHARED: Final = ("concurrent.futures.", "anyio.", "aiosqlite.", "workers.")
"""Modules whose threads serve all agents; aiosqlite's, for one, are those of `engine()`."""

log = structlog.get_logger("muster.threads")

_submit = ThreadPoolExecutor.submit
_start = threading.Thread.start


class ThreadCall:
    """A function of an agent in a pool of threads."""

    def __init__(self, owner: Owner | None, function: Callable[..., Any]) -> None:
        self.thread_id = 0
        self._owner, self._function = owner, function

    def __call__(self, /, *arguments: Any, **options: Any) -> Any:
        self.thread_id = threading.get_ident()
        token = CURRENT.set(self._owner)
        try:
            return self._function(*arguments, **options)
        finally:
            CURRENT.reset(token)


@functools.cache
def track_threads() -> None:
    """Note what runs in threads of this process, with its owner. A second call does nothing."""
    ThreadPoolExecutor.submit = _submit_owned  # type: ignore[method-assign,assignment]
    threading.Thread.start = _start_owned  # type: ignore[method-assign]


def _submit_owned(
    self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> "Future[Any]":
    owner = CURRENT.get()
    call = ThreadCall(owner, fn)
    future = _submit(self, call, *args, **kwargs)
    if owner is not None:
        owner.calls[future] = call
        future.add_done_callback(functools.partial(_forget, owner))
    return future


def _forget(owner: Owner, future: "Future[Any]") -> None:
    owner.calls.pop(future, None)


def _start_owned(self: threading.Thread) -> None:
    owner = CURRENT.get()
    if owner is not None and self.ident is None and not _serves_all(self):
        owner.threads -= {one for one in tuple(owner.threads) if one.ident and not one.is_alive()}
        owner.threads.add(self)
        run = self.run

        def run_owned() -> None:
            CURRENT.set(owner)
            self.__dict__.pop("run", None)
            run()

        self.run = run_owned  # type: ignore[method-assign]
    try:
        _start(self)
    except BaseException:
        if owner is not None:
            owner.threads.discard(self)
        raise


def _serves_all(thread: threading.Thread) -> bool:
    """Who starts it is only its first user. Each call in it names its owner by itself."""
    target = getattr(thread, "_target", None) or type(thread)
    return str(getattr(target, "__module__", "")).startswith(_SHARED)


def executor_of(owner: Owner) -> Executor:
    """The pool of an incarnation."""
    if owner.executor is None:
        prefix = f"agent-{owner.ids.get('agent_id')}"
        owner.executor = ThreadPoolExecutor(owner.threads_max, thread_name_prefix=prefix)
    return owner.executor


async def end_thread_calls(owner: Owner, seconds: float) -> bool:
    """Cancel the calls that wait, and wait for those under way; whether all have ended in time."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    owner.executor = None
    while [future for future in tuple(owner.calls) if not future.cancel()]:
        remaining = deadline - clock()
        if remaining <= 0:
            return False
        await asyncio.sleep(min(remaining, POLL_SECONDS))
    return True


def call_stacks(owner: Owner) -> list[str]:
    """Where its calls under way are."""
    return [thread_stack(call.thread_id) for call in tuple(owner.calls.values()) if call.thread_id]


def report_threads(owner: Owner) -> None:
    """Log which threads an incarnation leaves, besides those of pools."""
    left = [thread.name for thread in tuple(owner.threads) if thread.is_alive()]
    if left:
        log.warning("agent.threads_left", **owner.ids, count=len(left), threads=left[:NAMES_MAX])
