"""Checks of this host for running workers and, where it does, Redis."""

import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from muster.cli.doctor.checks import Check, Level, check
from workers.host.capacity import HostLimits, available_memory_mb

AREA = "host"
FILES_WANTED = 4_096
PROCESSES_WANTED = 512
OLDEST_PYTHON = (3, 11)
PROC = Path("/proc")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def check_host(limits: HostLimits, *, redis_is_local: bool) -> Iterator[Check]:
    """All checks of this host. `redis_is_local`: Redis runs on it, so check for its needs too."""
    yield _capacity(limits)
    old, wanted = sys.version_info < OLDEST_PYTHON, ".".join(map(str, OLDEST_PYTHON))
    change = f"use Python {wanted} or later" if old else ""
    yield check(AREA, "python", platform.python_version(), change, Level.FAIL)
    change = f"raise it: ulimit -n {FILES_WANTED * 4}"
    yield _limit("open files", resource.RLIMIT_NOFILE, FILES_WANTED, change)
    if sys.platform != "linux":
        found = f"{platform.system()}: supported, with limits; Muster is built for Linux"
        yield check(AREA, "system", found)
        return
    change = "raise it: ulimit -u 4096 (a worker is a process)"
    yield _limit("processes", resource.RLIMIT_NPROC, PROCESSES_WANTED, change)
    if redis_is_local:
        yield from _for_redis()
    # Workers are identified by host and process id, so those of a host must share a namespace.
    first = os.getpid() == 1
    change = "run it under an init (docker run --init): its child processes must be reaped"
    namespace = _link(PROC / "self/ns/pid")
    found = f"{namespace}, process 1" if first else namespace or "unknown"
    yield check(AREA, "pid namespace", found, change if first else "")
    mapped = _read(PROC / "self/uid_map").split() not in (["0", "0", "4294967295"], [])
    yield check(AREA, "user namespace", f"mapped, uid {os.getuid()}" if mapped else "the host's")


def _capacity(limits: HostLimits) -> Check:
    """How many workers it takes, and whether it has memory for one more."""
    available, full = available_memory_mb(), limits.full(0) or limits.busy()
    memory = "" if available is None else f"; {available:.0f} MB of memory are available"
    found = f"at most {limits.workers}, {limits.launches} starting at the same time{memory}"
    change = f"no worker would be started: {full}" if full else ""
    return check(AREA, "workers", found, change)


def _limit(name: str, kind: int, wanted: int, change: str) -> Check:
    limit = resource.getrlimit(kind)[0]
    if limit == resource.RLIM_INFINITY:
        return check(AREA, name, "no limit")
    return check(AREA, name, f"limit {limit}", change if limit < wanted else "")


def _for_redis() -> Iterator[Check]:
    text = _read(PROC / "sys/vm/overcommit_memory")
    change = "sysctl vm.overcommit_memory=1: else Redis may fail to rewrite its append-only file"
    safe = text in ("1", "")
    yield check(AREA, "vm.overcommit_memory", text or "unknown", "" if safe else change)
    chosen = _read(HUGE_PAGES).partition("[")[2].partition("]")[0] or "unknown"
    change = f"echo madvise > {HUGE_PAGES}: they make Redis slow and large"
    yield check(AREA, "transparent huge pages", chosen, change if chosen == "always" else "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
