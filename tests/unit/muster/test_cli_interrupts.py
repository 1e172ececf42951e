"""Ctrl-C before a command has started, and while it waits for answers: it ends the same way."""

import signal
import socket
import subprocess
import sys

import pytest

from muster.cli.arguments.command import INTERRUPTED

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


@pytest.mark.parametrize(
    ("imported", "command"),
    [
        ("structlog", "up"),
        ("argparse", "ps"),
        ("msgspec", "ps"),
        ("muster.terminal.render", "ps"),
        ("muster.up.up", "up"),
    ],
)
def test_a_ctrl_c_during_imports_ends_it_silently(imported, command):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT, imported, command, "--data-dir", "/nowhere"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "")


@pytest.mark.parametrize(
    "words",
    [
        "terminate 01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e --pool night",
        "spawn night --project demo --role developer --count 2",
    ],
)
def test_a_ctrl_c_while_it_waits_for_answers_ends_it_at_once(words):
    """Not only after they have come or timed out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "muster", *words.split(), "--url", url]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(1)  # the request: it waits from now on
                waiting.send_signal(signal.SIGINT)
                try:
                    _, said = waiting.communicate(timeout=10)
                finally:
                    waiting.kill()
    assert (waiting.returncode, said) == (INTERRUPTED, "")
