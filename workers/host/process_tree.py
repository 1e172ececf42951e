"""Which processes there are, and which started which. From /proc: empty on other systems."""

import contextlib
import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from workers.host.processes import Process, status

PR_SET_CHILD_SUBREAPER: Final = 36
"""From linux/prctl.h."""
NAME_MAX: Final = 15
"""Characters of a process's name."""


class Found(Struct, frozen=True):
    """A process as it was when it was found."""

    parent: int
    process: Process
    name: str
    ended: bool
    """Its exit code has not been collected yet."""


def become_subreaper() -> None:
    """Orphans below this process become its children, rather than those of init. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def name_process(name: str) -> None:
    """Set the name that `ps` shows, and that a forked child inherits. Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name[:NAME_MAX], encoding="utf-8")


def all_processes() -> dict[int, Found]:
    """Those of this pid namespace, by pid."""
    found: dict[int, Found] = {}
    with contextlib.suppress(OSError):
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            with contextlib.suppress(OSError):
                if (one := status(pid)) is not None:
                    process = Process(pid, one.start_time)
                    found[pid] = Found(one.parent, process, one.name, one.ended)
    return found


def descendants(pid: int, processes: Mapping[int, Found] | None = None) -> list[int]:
    """All processes below this one, parents before their children."""
    children: dict[int, list[int]] = {}
    for child, found in (all_processes() if processes is None else processes).items():
        children.setdefault(found.parent, []).append(child)
    below, todo = [], [pid]
    while todo:
        next_ones = children.get(todo.pop(), [])
        below += next_ones
        todo += next_ones
    return below


def variable(pid: int, name: str) -> str:
    """A variable of the environment that a program was started with; empty if that is unknown."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            found, _, value = entry.partition(b"=")
            if found == name.encode():
                return value.decode(errors="replace")
    return ""
