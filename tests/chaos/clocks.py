"""Clocks that can be stepped while a process runs, with libfaketime (Debian: `faketime`).

A process started with `environment()` reads its wall clock through the library, which adds what
the clock's file says; writing the file steps the clock, within two seconds: reading the file at
every call would make the processes several times slower. CLOCK_MONOTONIC and
CLOCK_BOOTTIME stay true. (Where those are left alone the library breaks CPython's `time.sleep`, in
whose place `faked/sitecustomize.py` puts another, and threads that wait for work spin: only what
has none can be run on such a clock.)
"""

import glob
import os
from pathlib import Path

FAKED = Path(__file__).with_name("faked")
LIBRARIES = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
)


def library() -> Path | None:
    """Where libfaketime is, if it is installed."""
    found = [path for pattern in LIBRARIES for path in sorted(glob.glob(pattern))]  # noqa: PTH207
    return Path(found[0]) if found else None


class Clock:
    """The wall clock of some processes, controlled by a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.step(0)

    def step(self, seconds: int) -> None:
        """Set it to so many seconds ahead of the true time (negative: behind)."""
        renamed = self.file.with_suffix(".new")
        renamed.write_text(f"{seconds:+d}\n")
        renamed.replace(self.file)

    def environment(self) -> dict[str, str]:
        found = library()
        if found is None:
            return {}
        path = os.environ.get("PYTHONPATH")
        return {
            "LD_PRELOAD": str(found),
            "PYTHONPATH": os.pathsep.join([str(FAKED), *([path] if path else [])]),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }
