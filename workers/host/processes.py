"""Which host this is, which process a pid means, and a clock that runs while the machine sleeps.

A host is a machine id, a boot id and a pid namespace: only within all three does a pid name a
process. A process is a pid and its start time, and is watched through a pidfd, which stays bound to
that very process. Other systems than Linux have fallbacks that are good enough for one desk.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import select
import signal
import socket
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

POLL_SECONDS = 0.25
"""How often a process is polled where there is no pidfd."""

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_STATES: Final = {"T": "stopped by a signal", "t": "stopped by a debugger"}
HAS_PROC = Path("/proc/self/stat").exists()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


class Status(Struct, frozen=True):
    """What the system says of a process."""

    name: str
    state: str
    parent: int
    start_time: int
    """In clock ticks since boot."""

    @property
    def ended(self) -> bool:
        """Only its exit code is left."""
        return self.state in {"Z", "X"}


def status(pid: int) -> Status | None:
    """None if there is no such process (or no /proc). Raises `OSError`: no more files, say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Status(head.partition("(")[2], fields[0], int(fields[1]), int(fields[19]))


def start_time(pid: int) -> int:
    """0 if there is no such process, or it has ended. Raises `OSError` as `status` does."""
    found = status(pid)
    return 0 if found is None or found.ended else found.start_time


def resident_bytes(pid: int) -> int:
    """How much memory of a process is in RAM, what it shares included; 0 if that is unknown."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


class ProcessorUse:
    """How many processors this process uses, averaged between two questions."""

    def __init__(self) -> None:
        self._used, self._at = time.process_time(), time.monotonic()

    def since_last(self) -> float:
        used, at = time.process_time(), time.monotonic()
        share = (used - self._used) / max(at - self._at, 0.001)
        self._used, self._at = used, at
        return round(share, 3)


class Process(Struct, frozen=True):
    """A process of this host."""

    pid: int
    start_time: int

    def alive(self) -> bool:
        """Whether it lives, as far as is known."""
        if not HAS_PROC:
            return _exists(self.pid)
        try:
            return self.pid > 0 and 0 < self.start_time == start_time(self.pid)
        except OSError:
            return True

    def end_check(self) -> Callable[[], bool]:
        """A function that says whether it has ended, cheaply, from any thread.

        A pidfd stays open for it as long as the function lives.
        """
        with contextlib.suppress(ProcessLookupError):
            pidfd = _pidfd(self.pid)
            if pidfd is not None and self.alive():
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)

                def ended() -> bool:  # asks /proc only if the pidfd is ready, or was closed
                    return bool(poll.poll(0)) and not self.alive()

                weakref.finalize(ended, os.close, pidfd)
                return ended
            if pidfd is not None:  # another process has the pid
                os.close(pidfd)
        return lambda: not self.alive()

    def state(self) -> str:
        """What it does, in words; empty if it does not live, or that is not known."""
        with contextlib.suppress(OSError):
            found = status(self.pid)
            if found is not None and found.start_time == self.start_time and not found.ended:
                return _STATES.get(found.state, "alive")
        return ""

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to this very process; False if it is gone."""
        with contextlib.suppress(ProcessLookupError), contextlib.ExitStack() as opened:
            pidfd = _pidfd(self.pid)
            if pidfd is not None:
                opened.callback(os.close, pidfd)
            if self.alive():
                if pidfd is None:
                    os.kill(self.pid, number)
                else:
                    signal.pidfd_send_signal(pidfd, number)
                return True
        return False

    def watch(self, on_ended: Callable[[], None]) -> Callable[[], object]:
        """Call `on_ended` once, from the running loop, when it ends. Returns how to stop that."""
        loop, watching = asyncio.get_running_loop(), contextlib.ExitStack()

        def ended() -> None:
            watching.close()
            on_ended()

        try:
            pidfd = _pidfd(self.pid)
        except ProcessLookupError:
            pidfd = None
        if pidfd is not None:
            watching.callback(os.close, pidfd)
            if self.alive():
                loop.add_reader(pidfd, ended)
                watching.callback(loop.remove_reader, pidfd)
                return watching.close
        watching.close()
        return loop.create_task(self._poll(on_ended)).cancel

    async def _poll(self, on_ended: Callable[[], None]) -> None:
        while self.alive():  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(POLL_SECONDS)
        on_ended()


def this_process() -> Process:
    return Process(os.getpid(), start_time(os.getpid()))


def _pidfd(pid: int) -> int | None:
    """A pidfd, or None where the system has none. Raises `ProcessLookupError`."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:  # unknown to this kernel, forbidden, or too many files are open
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def boot_seconds() -> float:
    """Seconds since boot; where there is no CLOCK_BOOTTIME, without the time asleep."""
    return time.clock_gettime(_CLOCK)


def host_name() -> str:
    """`<hostname>-<8 hex digits>`, the digits from machine id, boot id and pid namespace."""
    parts = [_read("/etc/machine-id"), _read("/proc/sys/kernel/random/boot_id")]
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    digest = hashlib.sha256("\n".join([socket.gethostname(), *parts]).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:48] or "host"
    return f"{name}-{digest[:8]}"
