"""How many workers this host may run, and whether there is memory for one more."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

WORKERS_PER_CORE: Final = 64
LAUNCHES_PER_CORE: Final = 2
LAUNCHES_MIN: Final = 4

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

    @property
    def workers(self) -> int:
        return self.workers_max or WORKERS_PER_CORE * (os.cpu_count() or 1)

    @property
    def launches(self) -> int:
        return self.launches_max or max(LAUNCHES_PER_CORE * (os.cpu_count() or 1), LAUNCHES_MIN)

    def full(self, workers: int) -> str:
        """Why a host with so many workers takes no more, in words; empty if it does."""
        if workers >= self.workers:
            return f"it has {workers} of at most {self.workers} workers (host_workers_max)"
        available = available_memory_mb() if self.memory_min_mb else None
        if available is not None and available < self.memory_min_mb:
            return f"less than {self.memory_min_mb:g} MB of memory are left (host_memory_min_mb)"
        return ""


def available_memory_mb(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> float | None:
    """What the host has available, or its container, if that is less; None if not known."""
    found = [*_of_host(meminfo), *_of_cgroup(cgroup)]
    return min(found) if found else None


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


def _numbers(path: Path) -> Mapping[str, int]:
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}
