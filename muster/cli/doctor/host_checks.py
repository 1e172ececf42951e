"""Checks of this host for running workers and, where it does, Redis."""

import os
import platform
import resource
import sys
from pathlib import Path

from muster.cli.doctor.checks import Check, Level, check

AREA = "host"
FILES_WANTED = 4_096
OLDEST_PYTHON = (3, 11)
PROC = Path("/proc")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def check_host(*, redis_is_local: bool) -> list[Check]:
    """All checks of this host. `redis_is_local`: Redis runs on it, so check for its needs too."""
    checks = [python(sys.version_info[:3]), files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]
    if sys.platform != "linux":
        found = f"{platform.system()}: supported, with limits; Muster is built for Linux"
        return [*checks, check(AREA, "system", found)]
    checks.append(process_limit(resource.getrlimit(resource.RLIMIT_NPROC)[0]))
    if redis_is_local:
        checks.append(overcommit(_read(PROC / "sys/vm/overcommit_memory")))
        checks.append(huge_pages(_read(HUGE_PAGES)))
    return [
        *checks,
        pid_namespace(_link("pid"), os.getpid()),
        user_namespace(_read(PROC / "self/uid_map")),
    ]


def python(version: tuple[int, ...]) -> Check:
    old = version[:2] < OLDEST_PYTHON
    wanted = ".".join(map(str, OLDEST_PYTHON))
    change = f"use Python {wanted} or later" if old else ""
    return check(AREA, "python", ".".join(map(str, version)), change, Level.FAIL)


def files(limit: int) -> Check:
    unlimited = limit == resource.RLIM_INFINITY
    change = "" if unlimited or limit >= FILES_WANTED else f"raise it: ulimit -n {FILES_WANTED * 4}"
    return check(AREA, "open files", "no limit" if unlimited else f"limit {limit}", change)


def process_limit(limit: int) -> Check:
    unlimited = limit == resource.RLIM_INFINITY
    change = "" if unlimited or limit >= 512 else "raise it: ulimit -u 4096 (a worker is a process)"
    return check(AREA, "processes", "no limit" if unlimited else f"limit {limit}", change)


def overcommit(text: str) -> Check:
    change = "" if text in ("1", "") else (
        "sysctl vm.overcommit_memory=1: else Redis may fail to rewrite its append-only file"
    )  # fmt: skip
    return check(AREA, "vm.overcommit_memory", text or "unknown", change)


def huge_pages(text: str) -> Check:
    always = "[always]" in text
    change = f"echo madvise > {HUGE_PAGES}: they make Redis slow and large" if always else ""
    chosen = text.partition("[")[2].partition("]")[0] or "unknown"
    return check(AREA, "transparent huge pages", chosen, change)


def pid_namespace(name: str, pid: int) -> Check:
    """Workers are identified by host and process id, so those of a host must share a namespace."""
    if pid == 1:
        change = "run it under an init (docker run --init): its child processes must be reaped"
        return check(AREA, "pid namespace", f"{name}, process 1", change)
    return check(AREA, "pid namespace", name or "unknown")


def user_namespace(uid_map: str) -> Check:
    mapped = uid_map.split() not in (["0", "0", "4294967295"], [])
    return check(AREA, "user namespace", f"mapped, uid {os.getuid()}" if mapped else "the host's")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _link(kind: str) -> str:
    try:
        return str((PROC / "self/ns" / kind).readlink())
    except OSError:
        return ""
