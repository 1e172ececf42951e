"""The planted bugs fit the code as it is; that each is found is for `.ci/long` to see."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.planted import PLANTED

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", PLANTED)
def test_every_bug_can_be_planted(name: str):
    """One whose text is gone from a script would leave a Muster that does nothing at all."""
    code = f"from tests.chaos.planted import plant; plant({name!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
