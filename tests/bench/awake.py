"""Keeping the processors awake while something is measured.

What runs after a pause finds a processor that sleeps, and pays for that many times what its
instructions cost, on virtual machines above all, where waking is the host's affair. So figures
would say how deep a machine sleeps. On each core a process that runs only where nothing else wants
to (SCHED_IDLE) keeps it awake, as switching off idle states does. Its session is of the least
weight, too: Linux shares the processor among sessions first.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SPIN: Final = """
import contextlib, os
parent = os.getppid()
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
    file.write("19")
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


class Awake:
    """The processors are awake while this is open; no matter where there is no such priority."""

    def __init__(self) -> None:
        cores = (os.cpu_count() or 1) if hasattr(os, "SCHED_IDLE") else 0
        self._spinning = [
            subprocess.Popen([sys.executable, "-c", SPIN], start_new_session=True)
            for _ in range(cores)
        ]

    def __enter__(self) -> "Awake":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._spinning:
            process.kill()
            process.wait()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """They may sleep for as long as this is open."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._spinning:
            process.send_signal(number)
