"""A short run of the harness itself, with faults that need no special rights.

The longer ones are commands: `tests/chaos/run`, and `.ci/long` for planted bugs and soaks.
"""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run")
FAULTS = "worker_killed,gateway_killed,projector_killed,supervisor_killed,replies_cut,redis_killed"


@pytest.mark.timeout(180)
def test_a_short_run_finds_nothing_wrong(tmp_path: Path):
    """Processes and Redis are killed and replies cut under load; every promise holds."""
    arguments = ["--seed", "1", "--minutes", "0.1", "--faults", FAULTS]
    arguments += ["--appendfsync", "always", "--views", "sqlite", "--keep", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, str(RUN), *arguments],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: nothing found wrong (seed 1)" in done.stdout
    assert " 0 acknowledged" not in done.stdout
