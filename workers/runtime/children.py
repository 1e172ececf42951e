"""Ending the processes that an incarnation started, with it.

Its own are those that `child_records` has for it, those with its name in their environment, and all
below these. Everything else belongs to the worker and ends with that: what modules start, or the
set-up of a role; the processes of a pool that outlives the incarnation which used it first; the
servers of `multiprocessing`.

A worker is a subreaper: what loses its parent becomes the worker's child, and stays below it. So it
has children that nobody here waits for. Their exit codes are collected, and no others: who started
a process wants to know how it ended.
"""

import asyncio
import contextlib
import functools
import gc
import os
import signal
import time
from collections.abc import Callable, Collection
from typing import Final

import structlog

from workers.host.process_tree import Found, all_processes, descendants, variable
from workers.host.processes import Process
from workers.output.lines import Owner
from workers.runtime.child_records import STARTED, VARIABLE, name_of

GRACE_SECONDS: Final = 1.0
"""Between SIGTERM and SIGKILL."""
KILL_SECONDS: Final = 5.0
"""How long killed processes may take to end."""
POLL_SECONDS: Final = 0.03
POLL_SECONDS_MAX: Final = 0.25
"""The pause is doubled up to this one: looking for processes takes time."""
COMMANDS_MAX: Final = 10
"""How many commands one warning names."""

log = structlog.get_logger("muster.children")

ADOPTED_SECONDS: Final = 1.0
"""For so long, at least, the exit code of an ended child is left to whoever may wait for it."""
_ended_since: dict[int, float] = {}
"""When ended children that were not started here were first seen."""


async def end_children(owner: Owner, *, grace: bool) -> bool:
    """End what an incarnation has started; False if something of it does not end.

    With a grace, each is asked first (SIGTERM).
    """
    if _child() is False:
        return True
    if any(started.owner is owner and started.pool for started in STARTED.values()):
        gc.collect()  # a pool that only the agent referred to
    if left := _of(owner):
        names = sorted({found.name or str(found.process.pid) for found in left})
        commands = ", ".join(names[:COMMANDS_MAX])
        log.warning("agent.children_ended", **owner.ids, count=len(left), commands=commands)
    refused: set[Process] = set()
    find = functools.partial(_of, owner)
    ended = await _end(find, signal.SIGTERM, GRACE_SECONDS, refused) if grace else False
    ended = ended or await _end(find, signal.SIGKILL, KILL_SECONDS, refused)
    for pid in [pid for pid, started in STARTED.items() if started.belongs_to(owner)]:
        del STARTED[pid]  # it is not waited for any more
    if refused:
        pids = sorted(process.pid for process in refused)
        log.error("agent.children_remain", **owner.ids, pids=pids)
    return ended


async def end_all() -> None:
    """End all that is left below this process, as far as possible: a worker that has ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        await _end(_all_below, number, GRACE_SECONDS, set())


async def _end(
    find: Callable[[], list[Found]], number: signal.Signals, seconds: float, refused: set[Process]
) -> bool:
    """Signal each that is found once, those too that start meanwhile; whether all end in time.

    `refused`: what may not be signalled.
    """
    clock, pause = asyncio.get_running_loop().time, POLL_SECONDS
    deadline, signalled = clock() + seconds, set[Process]()
    while left := {found.process for found in find()} - refused:
        refused |= _signal(left - signalled, number)
        signalled |= left
        if clock() >= deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS_MAX)
    return True


def collect_adopted() -> None:
    """Collect the exit codes of ended children that were not started here. To be called often."""
    known = dict(_ended_since)
    _ended_since.clear()
    if not _child():
        return
    loop, now = asyncio.get_running_loop(), time.monotonic()
    for pid, found in _look().items():
        if found.ended and found.parent == os.getpid() and pid not in STARTED:
            _ended_since[pid] = known.get(pid, now)
    if old := [pid for pid, since in _ended_since.items() if now - since >= ADOPTED_SECONDS]:
        # What uvloop has just started is not recorded yet; its turns in between collect that.
        loop.call_soon(loop.call_soon, _collect, old)


def _collect(pids: Collection[int]) -> None:
    for pid in pids:
        if pid not in STARTED:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _all_below() -> list[Found]:
    """The running processes below this one."""
    processes = all_processes()
    below = [processes[pid] for pid in descendants(os.getpid(), processes)]
    return [found for found in below if not found.ended]


def _of(owner: Owner) -> list[Found]:
    """The running processes of an incarnation."""
    processes = _look()
    if not processes:  # not Linux: only what was started here
        mine = [pid for pid, started in STARTED.items() if started.belongs_to(owner)]
        return [Found(os.getpid(), Process(pid, 0), "", ended=False) for pid in mine if _runs(pid)]
    name, found = name_of(owner), dict[int, Found]()
    for pid in descendants(os.getpid(), processes):
        started = STARTED.get(pid)
        if (
            (started is not None and started.belongs_to(owner))
            or processes[pid].parent in found
            or (started is None and variable(pid, VARIABLE) == name)
        ):
            found[pid] = processes[pid]
    return [one for one in found.values() if not one.ended]


def _look() -> dict[int, Found]:
    """All processes. Records of children whose exit code was collected are dropped."""
    recorded = set(STARTED)
    processes = all_processes()
    for pid in recorded if processes else ():
        if pid not in processes or processes[pid].parent != os.getpid():
            STARTED.pop(pid, None)
    return processes


def _child() -> object:
    """An ended child; None if none has ended, or that is not known; False if there is no child."""
    if not hasattr(os, "waitid"):  # macOS, before Python 3.13
        return None
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False


def _runs(pid: int) -> bool:
    """Whether a child runs. Of one that has ended the exit code is collected."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    return False


def _signal(processes: Collection[Process], number: signal.Signals) -> set[Process]:
    """Returns those that this process may not signal."""
    refused = set()
    for process in processes:
        try:
            process.signal(number)
        except PermissionError:
            refused.add(process)
    return refused
