"""The thread of an output: it reads descriptors, and has old parts of lines written.

It sleeps until a descriptor has data or there is something to watch, which it then does twice a
second or so.
"""

import contextlib
import fcntl
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from workers.host.threads import start_thread

TICK_SECONDS: Final = 0.4
PIPE_BYTES: Final = 1 << 20
"""What a pipe holds, where that may be set, and the most that is read at once. A library that holds
the interpreter's lock while it writes more than this would wait for ever."""
FLOOD_SECONDS: Final = 0.01
"""Between two reads while what is read is dropped."""
LAST_READS: Final = 100
"""How often a descriptor is read at most when the output is closed."""


def is_pipe(end: tuple[int, int]) -> bool:
    """Whether a descriptor is still that pipe: agents may close or replace it."""
    try:
        return os.fstat(end[0]).st_ino == end[1]
    except OSError:
        return False


class Pump:
    """Starts its thread when there is something to do. Any thread may call it."""

    def __init__(self) -> None:
        self._ticks: set[Callable[[], bool]] = set()
        self._readers: dict[int, Callable[[bytes], bool]] = {}
        self._wake_read, self._wake_write = -1, -1
        self._asleep = True
        self._closed = False
        self._thread_ended: threading.Event | None = None
        """Set at the end of the thread, if it was started."""
        self._lock = threading.RLock()

    @property
    def running(self) -> bool:
        return self._thread_ended is not None and not self._closed

    def watch(self, tick: Callable[[], bool]) -> None:
        """Call this every `TICK_SECONDS` for as long as it returns True."""
        self._ticks.add(tick)
        if self._asleep:
            self._wake()

    def read(self, descriptor: int, on_data: Callable[[bytes], bool]) -> None:
        """Pass on what comes from a descriptor; at its end it is closed.

        `on_data` returns whether it has dropped the data: a flood must not take all of the time.
        """
        os.set_blocking(descriptor, False)
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._readers[descriptor] = on_data
        self._wake()

    def close(self) -> None:
        """Read what there is, and stop. A second call does nothing."""
        with self._lock:
            closed, self._closed = self._closed, True
        if self._thread_ended is not None and not closed:
            self._wake()
            self._thread_ended.wait(1.0)

    def forget(self) -> None:
        """In a forked child: the thread and the descriptors are the parent's."""
        self.__init__()  # type: ignore[misc]
        self._closed = True

    def _wake(self) -> None:
        with self._lock:
            if self._thread_ended is None and not self._closed:
                if self._wake_write < 0:
                    self._open_wake()
                with contextlib.suppress(RuntimeError):  # no thread is left: the next call tries
                    self._thread_ended = start_thread(self._run)
            if self._wake_write >= 0:
                with contextlib.suppress(OSError):
                    os.write(self._wake_write, b"x")

    def _open_wake(self) -> None:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def _run(self) -> None:
        tick_at = time.monotonic() + TICK_SECONDS
        while not self._closed:
            self._asleep = not self._ticks
            # Looked at again after `_asleep` was set: who adds something later wakes this thread.
            sleeping = self._asleep and not self._ticks
            self._poll(None if sleeping else max(tick_at - time.monotonic(), 0.0))
            if not sleeping and time.monotonic() >= tick_at:
                self._tick()
            elif not sleeping:
                continue
            tick_at = time.monotonic() + TICK_SECONDS
        for _ in range(LAST_READS):
            if not self._poll(0.0):
                break
        for _ in range(2):  # what came without a newline is written
            self._tick()
        with self._lock, contextlib.suppress(OSError):  # closed by an agent
            os.close(self._wake_write)
            self._wake_write = -1
            os.close(self._wake_read)

    def _tick(self) -> None:
        for tick in tuple(self._ticks):
            # Taken out first: what it does while it says no is not lost then.
            self._ticks.discard(tick)
            with contextlib.suppress(Exception):  # this thread must not end
                if tick():
                    self._ticks.add(tick)

    def _ended(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        if self._readers.pop(descriptor, None) is None:
            self._open_wake()

    def _poll(self, timeout: float | None) -> int:
        """Read from what has something, once; returns from how many descriptors."""
        poller = select.poll()
        for descriptor in (self._wake_read, *self._readers):
            poller.register(descriptor, select.POLLIN)
        flooded = False
        ready = poller.poll(None if timeout is None else timeout * 1000)
        for descriptor, _ in ready:
            try:
                data = os.read(descriptor, PIPE_BYTES)
            except BlockingIOError:
                continue
            except OSError:  # closed by an agent; it would be ready for ever
                data = b""
            if data and descriptor != self._wake_read:
                with contextlib.suppress(Exception):  # as above
                    flooded |= self._readers[descriptor](data)
            elif not data:
                self._ended(descriptor)
        if flooded and not self._closed:
            time.sleep(FLOOD_SECONDS)
        return len(ready)
