"""Interrupting code that blocks the event loop, so that a test of it ends."""

import asyncio
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

INTERRUPT: Final = signal.SIGURG
"""Nothing else uses it; not that of a timer, which plugins of pytest use."""
MAIN_THREAD: Final = threading.main_thread().ident or 0
POLL_SECONDS: Final = 0.05
BLOCKED_SECONDS = 1.0
"""The shortest time that counts: a process on a busy machine may not run for almost as long."""


class Blocked(Exception):
    """The event loop was blocked for too long; the message is the line of code that did."""


@contextmanager
def guarded(seconds: float) -> Iterator[None]:
    """Raises `Blocked` where code blocks the running event loop for so long, or `BLOCKED_SECONDS`.

    Only in the main thread: others cannot be interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, ended, blocked = asyncio.get_running_loop(), threading.Event(), list[str]()

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            turned = threading.Event()
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(turned.set)
            if not turned.wait(max(seconds, BLOCKED_SECONDS)) and not ended.is_set():
                signal.pthread_kill(MAIN_THREAD, INTERRUPT)

    def interrupt(_: int, frame: FrameType | None) -> None:
        if not ended.is_set():
            blocked[:] = traceback.format_stack(frame)[-1:]
            raise Blocked

    previous = signal.signal(INTERRUPT, interrupt)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.signal(INTERRUPT, previous)
        if blocked:  # the agent's outcome is that of an interrupted one
            raise Blocked(blocked[0])
