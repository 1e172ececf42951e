"""Log files of workers that are gone: the too old are removed, then the oldest of too many.

A worker locks the file it writes (flock), and that lock ends with its process, however it ends. So
a file that can be locked here has no writer any more, whatever the log records.
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

UNTOUCHED_SECONDS: Final = 60.0
"""A file written since then is not touched: its worker may be rotating it."""


class LogLimits(Struct, frozen=True, kw_only=True):
    """Of files without a worker: how long they stay, and how many bytes they may have in all."""

    age_seconds: float = 1_209_600.0
    size_max: int = 1_000_000_000


class AbandonedLogs(Struct, frozen=True):
    """All files of one worker that is gone."""

    written_at: float
    size: int
    files: tuple[Path, ...]


def remove_old_files(folder: Path, limits: LogLimits, now: float) -> list[Path]:
    """Remove what is over the limits; returns the removed files. `now`: seconds since 1970."""
    abandoned = sorted(_abandoned_logs(folder, now), key=lambda one: one.written_at)
    total = sum(one.size for one in abandoned)
    removed: list[Path] = []
    for one in abandoned:
        if now - one.written_at < limits.age_seconds and total <= limits.size_max:
            break
        total -= one.size
        removed += [file for file in one.files if _remove(file)]
    return removed


def _abandoned_logs(folder: Path, now: float) -> Iterator[AbandonedLogs]:
    """The files of workers that are gone and have not written for a while."""
    files: dict[Path, list[Path]] = {}
    for file in folder.glob("*/*.jsonl*"):
        files.setdefault(file.with_name(file.name.partition(".")[0]), []).append(file)
    for worker, paths in files.items():
        statuses = [status for file in paths if (status := _status(file))]
        written_at = max((status.st_mtime for status in statuses), default=now)
        if now - written_at >= UNTOUCHED_SECONDS and not _in_use(Path(f"{worker}.jsonl")):
            yield AbandonedLogs(
                written_at, sum(status.st_size for status in statuses), tuple(paths)
            )


def _status(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:
        return None


def _in_use(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # locked, or not ours to open
        return True
    return False


def _remove(file: Path) -> bool:
    try:
        file.unlink()
    except OSError:
        return False
    return True
