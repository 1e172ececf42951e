"""Threads of a worker's own, besides that of its event loop."""

import _thread
import threading
from collections.abc import Callable


def start_thread(run: Callable[[], None]) -> threading.Event:
    """Run it in a thread that ends with the process; returns what is set at its end.

    Unlike `Thread.start` it does not wait for the thread, which has the interpreter's lock for up
    to 5 ms as it starts.
    """
    ended = threading.Event()

    def body() -> None:
        try:
            run()
        finally:
            ended.set()

    _thread.start_new_thread(body, ())
    return ended
