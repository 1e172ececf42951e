"""What runs on a clock that the harness steps behaves as it does elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

from tests.chaos.clocks import Clock, library
from tests.process import missing

WAITS = """
import subprocess, time
print(subprocess.Popen(["sleep", "0.2"]).wait(timeout=5))
print(round(time.time()) // 86400)
"""


def test_a_process_on_a_clock_of_its_own_can_wait_for_another(tmp_path: Path):
    """A supervisor that is asked to end waits for its zygote, and has more to do after that."""
    if library() is None:
        missing("libfaketime", "faketime")
    clock = Clock(tmp_path / "clock")
    days = []
    for seconds in (0, 3 * 86_400):
        clock.step(seconds)
        done = subprocess.run(
            [sys.executable, "-P", "-c", WAITS],
            env={**os.environ, **clock.environment()},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        code, day = done.stdout.split()
        assert code == "0"
        days.append(int(day))
    assert days[1] - days[0] in (3, 4)
