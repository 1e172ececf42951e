"""A transaction that a thread runs, and what can be done about it from outside."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Self

CANCEL_SECONDS: Final = 5
AGAIN_SECONDS: Final = 0.1


class Cancellable:
    """The connection of one transaction, while a thread waits for it.

    Its statement can be cancelled. To PostgreSQL its socket can be shut down, too: a proxy can drop
    an answer and leave the connection open; libpq would wait for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cancelling = threading.Lock()
        self._driver: Any = None

    def attach(self, driver: Any) -> Self:
        """A duplicate: the number of a closed connection is soon used for another one."""
        fileno = getattr(driver, "fileno", None)
        duplicate = socket.socket(fileno=os.dup(fileno())) if fileno else None
        self.close()
        with self._lock, self._cancelling:
            self._socket, self._driver = duplicate, driver
        return self

    def close(self) -> None:
        with self._cancelling:  # what is cancelled must be ours until then
            self._driver = None
        with self._lock:
            current, self._socket = self._socket, None
        if current is not None:
            current.close()

    def cancel(self, is_over: Callable[[], bool]) -> None:
        """Cancel what its transaction runs, until that is over; it blocks meanwhile.

        Between two statements, or before the first, there is nothing that could be cancelled.
        """
        while not is_over():
            self._cancel_statement()
            time.sleep(AGAIN_SECONDS)

    def _cancel_statement(self) -> None:
        with self._cancelling, suppress(Exception):  # it is cut where this does not help
            if hasattr(self._driver, "interrupt"):
                self._driver.interrupt()
            elif self._driver is not None:
                self._driver.cancel_safe(timeout=CANCEL_SECONDS)

    def shut_down(self) -> None:
        """End the wait of the thread, if it still waits."""
        with self._lock:
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
