"""CPU time and memory of processes, by what they do."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

KINDS = (
    ("redis", ("valkey-server", "redis-server")),
    ("projector", ("projector",)),
    ("gateway", ("gateway",)),
    ("supervisor", ("supervisor",)),
    ("workers", ("zygote",)),
)
"""What the command of a process of Muster contains; workers are forks of the zygote."""


def kind_of(process: psutil.Process) -> str:
    """The kind of one of Muster's processes. Raises psutil.NoSuchProcess."""
    command = " ".join(process.cmdline())
    return next((kind for kind, words in KINDS if any(w in command for w in words)), "up")


def family(pid: int) -> list[psutil.Process]:
    """A process and all those below it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def by_kind(pids: Iterable[int]) -> dict[str, list[psutil.Process]]:
    """Muster's processes below these, and these themselves."""
    kinds: dict[str, list[psutil.Process]] = {}
    for process in (member for pid in pids for member in family(pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            kinds.setdefault(kind_of(process), []).append(process)
    return kinds


def cpu_seconds(kinds: Mapping[str, Iterable[psutil.Process]]) -> dict[str, float]:
    """The CPU time that each kind has used; of a process that is gone, nothing."""
    return {kind: sum(map(seconds_of, processes)) for kind, processes in kinds.items()}


def seconds_of(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def runs_of(processes: Iterable[psutil.Process]) -> int:
    """How often the kernel has let a thread of these run; of a process that is gone, nothing."""
    found = 0
    for process in processes:
        with contextlib.suppress(OSError):
            for stat in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
                found += int(stat.read_text().split()[2])
    return found


def pss_megabytes(processes: Iterable[psutil.Process]) -> list[float]:
    """The proportional set size of each process, in 10^6 bytes."""
    return [process.memory_full_info().pss / 1e6 for process in processes]


class CpuUsed:
    """The CPU time used between `start` and `stop`, in microseconds for each of `count` things."""

    def __init__(self, find: Callable[[], Mapping[str, Iterable[psutil.Process]]]) -> None:
        self._find = find
        self._before: dict[str, float] = {}

    def start(self) -> None:
        self._before = cpu_seconds(self._find())

    def stop(self, count: int) -> dict[str, float]:
        after = cpu_seconds(self._find())
        return {k: (after[k] - self._before.get(k, 0.0)) / count * 1e6 for k in sorted(after)}
