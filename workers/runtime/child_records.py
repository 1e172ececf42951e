"""What this process starts, and for which incarnation.

A program that an agent starts has the incarnation in its environment (`MUSTER_OWNER`), and so have
the programs that it starts. What an agent forks is only recorded, because the environment of a
forked process cannot be seen.

Python offers no event that has the new process's id, so the few functions that start one are
wrapped. Where others start some (a library in C), they are not recorded.
"""

import _posixsubprocess
import functools
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, Final

from msgspec import Struct

from workers.output.descriptors import STREAMS
from workers.output.lines import CURRENT, Owner

VARIABLE: Final = "MUSTER_OWNER"
"""`<worker id>/<agent id>:<incarnation>`, in the environment of what an agent starts."""
SCOPE: Final = "MUSTER_SCOPE"
"""Which supervisor's: in the environment of its zygote, and so of all below that."""
SERVERS: Final = ("multiprocessing/forkserver.py", "multiprocessing/resource_tracker.py")
"""They start processes that all agents use."""
POOLS: Final = ("concurrent/futures/process.py", "multiprocessing/pool.py")
ENVIRONMENT: Final = 5
"""The position of the environment, a list of bytes or None, among fork_exec's arguments."""
OUTPUT: Final = 9
"""That of the descriptor for standard output, -1 for the worker's; that for errors …"""
ERRORS: Final = 11
"""… has this one."""


class Started(Struct, frozen=True):
    """A child of this process that was started here."""

    owner: Owner | None = None
    pool: "weakref.ref[Any] | None" = None
    """The process pool that it is part of."""

    def belongs_to(self, owner: Owner) -> bool:
        """Whether it ends with an incarnation. A pool that outlives it has other users."""
        return self.owner is owner and (self.pool is None or self.pool() is None)

    def descriptor(self, wanted: int, number: int) -> int:
        """What to have as descriptor 1 or 2 instead of the worker's; `wanted`: -1 for these."""
        owner, given = self.owner, number if wanted == -1 else wanted
        if self.pool is not None or owner is None or owner.output is None or given not in STREAMS:
            return wanted
        try:
            return owner.output.descriptor(owner, STREAMS[given])
        except OSError:  # no descriptor is free
            return wanted

    @property
    def mark(self) -> dict[str, str]:
        """What goes into its environment, whatever environment was asked for."""
        scope = os.environ.get(SCOPE)
        marks = {SCOPE: scope} if scope else {}
        if self.owner is not None and self.pool is None:
            marks[VARIABLE] = name_of(self.owner)
        return marks


STARTED: Final[dict[int, Started]] = {}
"""By pid, until the exit code was collected."""


def name_of(owner: Owner) -> str:
    """The incarnation as `VARIABLE` names it."""
    return "{worker_id}/{agent_id}:{incarnation}".format_map(owner.ids)


@functools.cache
def track() -> None:
    """Record from now on what this process starts. A second call does nothing."""
    for name in ("fork", "forkpty"):
        setattr(os, name, _forking(getattr(os, name)))
    for name in ("posix_spawn", "posix_spawnp"):
        setattr(os, name, _spawning(getattr(os, name)))
    _posixsubprocess.fork_exec = _executing(_posixsubprocess.fork_exec)
    subprocess._fork_exec = _posixsubprocess.fork_exec  # type: ignore[attr-defined]


def _forking(fork: Callable[[], Any]) -> Callable[[], Any]:
    @functools.wraps(fork)
    def wrapper() -> Any:
        starter = _starter()
        ends = {number: starter.descriptor(number, number) for number in STREAMS}
        forked = fork()
        if pid := forked[0] if isinstance(forked, tuple) else forked:
            STARTED[pid] = starter
            return forked
        STARTED.clear()
        if starter.pool is not None:
            CURRENT.set(None)  # what it prints is of whoever uses it
        for number, end in ends.items() if not isinstance(forked, tuple) else ():
            if end != number:
                os.dup2(end, number)
        return forked

    return wrapper


def _spawning(spawn: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(spawn)
    def wrapper(path: Any, argv: Any, env: Any, **options: Any) -> int:
        starter = _starter()
        ends = {number: starter.descriptor(-1, number) for number in STREAMS}
        actions = [(os.POSIX_SPAWN_DUP2, end, number) for number, end in ends.items() if end != -1]
        options["file_actions"] = [*actions, *(options.get("file_actions") or ())]
        pid = spawn(path, argv, _with_mark(env, starter), **options)
        STARTED[pid] = starter
        return pid

    return wrapper


def _executing(fork_exec: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(fork_exec)
    def wrapper(*arguments: Any) -> int:
        starter = _starter()
        if starter.mark:
            given = arguments[ENVIRONMENT]
            pairs = None if given is None else (one.split(b"=", 1) for one in given)
            env = _with_mark(None if pairs is None else dict(pairs), starter)
            listed = [os.fsencode(name) + b"=" + os.fsencode(env[name]) for name in env]
            arguments = (*arguments[:ENVIRONMENT], listed, *arguments[ENVIRONMENT + 1 :])
        changed = list(arguments)
        changed[OUTPUT] = starter.descriptor(changed[OUTPUT], 1)
        changed[ERRORS] = starter.descriptor(changed[ERRORS], 2)
        pid = fork_exec(*changed)
        STARTED[pid] = starter
        return pid

    return wrapper


def marked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a loop's call that starts a program, with the mark and the agent's output."""
    starter = _starter()
    changed = {**options, "env": _with_mark(options.get("env"), starter)}
    for number, stream in STREAMS.items():
        wanted = options.get(stream, subprocess.PIPE)
        if wanted is None or wanted in STREAMS or wanted is sys.stdout or wanted is sys.stderr:
            given = (
                wanted.fileno() if hasattr(wanted, "fileno") else -1 if wanted is None else wanted
            )
            end = starter.descriptor(given, number)
            changed[stream] = None if end == -1 else end
    return changed


def record(made: Any) -> Any:
    """What such a call returned: a transport and its protocol."""
    STARTED[made[0].get_pid()] = _starter()
    return made


def _with_mark(env: Mapping[Any, Any] | None, starter: Started) -> dict[Any, Any]:
    given = os.environ if env is None else env
    marks = (VARIABLE.encode(), SCOPE.encode())
    kept = {name: given[name] for name in given if os.fsencode(name) not in marks}
    return {**kept, **starter.mark}


def _starter() -> Started:
    """For whom the present code starts a process."""
    owner = CURRENT.get()
    for frame in _frames(sys._getframe()) if owner is not None else ():
        file = frame.f_code.co_filename
        if file.endswith(SERVERS):
            return Started()
        if file.endswith(POOLS) and (pool := frame.f_locals.get("self")) is not None:
            return Started(owner, weakref.ref(pool))
    return Started(owner)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
