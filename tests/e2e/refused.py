"""A `muster up` that must not start: what it says, and that nothing of it is left."""

import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from tests.e2e.system import MUSTER, System

REFUSED_SECONDS = 30


def refused(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None, config: str = ""
) -> str:
    """What `muster up` says when it does not start; it must end by itself, and leave nothing."""
    system = System(folder, *arguments, env=env, config=config)
    done = subprocess.run(
        [*MUSTER, "up", "--data-dir", str(system.data), *system.arguments],
        cwd=folder,
        env=system.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=REFUSED_SECONDS,
        check=False,
    )
    assert done.returncode not in {0, None}
    assert left_on(system.data) == []
    assert done.stderr.count("muster up: ") == 1, done.stderr
    return done.stderr


def left_on(data: Path) -> list[psutil.Process]:
    """Processes that work on a data folder, by their command line, environment or open files."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            files = [file.path for file in process.open_files()]
            shown = [*process.cmdline(), *process.environ().values(), *files]
            if any(str(data) in text for text in shown):
                found.append(process)
    return found


def one_line(said: str) -> str:
    """The message, which is all that was said: no traceback, nothing twice."""
    assert said.strip().count("\n") == 0, said
    return said.strip()
