"""Ctrl-C before a command has begun: it ends as it would later."""

import subprocess
import sys

import pytest

from muster.commands.command import INTERRUPTED

INTERRUPT = """
import os, signal, sys

class Interrupter:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
from muster.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("command", ["up", "replay", "ps"])
@pytest.mark.parametrize("imported", ["importlib.metadata", "argparse", "msgspec", "muster.render"])
def test_a_ctrl_c_while_it_is_still_being_imported_ends_it_in_silence(imported, command):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT, imported, command, "--data-dir", "/nowhere"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "")
