"""How many workers this host may run, and whether there are memory and processors for one more.

Nothing is measured before it is asked for. A host that was full takes workers again once it is well
within its limits, so that it is not full again after each of them.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

WORKERS_PER_CORE: Final = 64
LAUNCHES_PER_CORE: Final = 2
LAUNCHES_MIN: Final = 4
MARGIN: Final = 0.2
"""By so much of a limit a host that was full is to be within it."""

_LOADAVG: Final = Path("/proc/loadavg")
_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")
"""Of the container, where there is one; of the whole host its root has no limit."""


class HostLimits(Struct, frozen=True):
    """Bounds of a host. 0 workers or launches: derived from the number of its cores."""

    workers_max: int = 0
    launches_max: int = 0
    """How many workers may be starting at the same time."""
    memory_min_mb: float = 0.0
    """With less memory available, no worker is started."""
    load_max: float = 0.0
    """With more threads that run or wait for each processor, no worker is started; 0: no limit."""

    @property
    def workers(self) -> int:
        return self.workers_max or WORKERS_PER_CORE * (os.cpu_count() or 1)

    @property
    def launches(self) -> int:
        return self.launches_max or max(LAUNCHES_PER_CORE * (os.cpu_count() or 1), LAUNCHES_MIN)

    def full(self, workers: int, *, was_full: bool = False) -> str:
        """Why a host with so many workers can start no more, in words; empty if it can.

        `was_full`: it took none when this was asked before.
        """
        if workers >= self.workers:
            return f"it has {workers} of at most {self.workers} workers (host_workers_max)"
        least = self.memory_min_mb * (1 + MARGIN * was_full)
        available = available_memory_mb() if least else None
        if available is not None and available < least:
            return f"less than {self.memory_min_mb:g} MB of memory are left (host_memory_min_mb)"
        return ""

    def busy(self, *, was_full: bool = False) -> str:
        """Why its processors bear no more workers than are ordered; empty if they do."""
        most = self.load_max * (1 - MARGIN * was_full)
        load = processor_load() if most else None
        if load is not None and load > most:
            return (
                f"more than {self.load_max:g} threads want each of its processors (host_load_max)"
            )
        return ""


def host_pressure() -> float:
    """How much of this host's processors or memory is in use, whichever is more; 1: all.

    0 for what is not known.
    """
    total, available = _numbers(_MEMINFO).get("MemTotal:", 0) * 1024 / 1e6, available_memory_mb()
    memory = 1 - available / total if total and available is not None else 0.0
    return round(max(memory, processor_load() or 0.0), 3)


def available_memory_mb(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> float | None:
    """What the host has available, or its container, if that is less; None if not known."""
    found = [*_of_host(meminfo), *_of_cgroup(cgroup)]
    return min(found) if found else None


def processor_load(loadavg: Path = _LOADAVG, cgroup: Path = _CGROUP) -> float | None:
    """How many threads run or wait for each processor, averaged over a minute; None if not known.

    A container with a quota is judged by how long it has to wait for it, whatever the host does: if
    it wants twice as much as it gets, all its threads wait for half of the time.
    """
    if _text(cgroup / "cpu.max")[:1].isdecimal():  # "max": no quota
        waits = re.search(r"^full .*avg60=([\d.]+)", _text(cgroup / "cpu.pressure"), re.MULTILINE)
        return 1 / max(1 - float(waits[1]) / 100, 0.001) if waits else None
    found = _text(loadavg).split()
    return float(found[0]) / (os.cpu_count() or 1) if found else None


def _of_host(meminfo: Path) -> list[float]:
    kilobytes = _numbers(meminfo).get("MemAvailable:")
    return [] if kilobytes is None else [kilobytes * 1024 / 1e6]


def _of_cgroup(cgroup: Path) -> list[float]:
    """Of version 2. Pages of files that were not used lately can be had at once."""
    try:
        limit = int((cgroup / "memory.max").read_text(encoding="utf-8"))  # "max": there is none
        used = int((cgroup / "memory.current").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    reclaimable = _numbers(cgroup / "memory.stat").get("inactive_file", 0)
    return [max(limit - used + reclaimable, 0) / 1e6]


def _text(path: Path) -> str:
    """Empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _numbers(path: Path) -> Mapping[str, int]:
    lines = [line.split() for line in _text(path).splitlines()]
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}
