"""What a process' own log shows, and what it must not."""

import os
import pty
import subprocess
import sys

SECRET = "hunter2-that-must-stay-secret"
FAILS = f"""
import structlog
from gateway.options import GatewayOptions
from muster.process.log_output import configure

configure("gateway")
options = GatewayOptions(
    redis_url="redis://:{SECRET}@h", database_url="sqlite:///v", roles=(), api_token="{SECRET}"
)

def fail(password):
    raise RuntimeError("out of order")

try:
    fail(options.api_token)
except RuntimeError as error:
    structlog.get_logger().error("gateway.request_failed", exc_info=error)
"""


def test_a_traceback_at_a_terminal_shows_no_values():
    """Among them are addresses with passwords, and the token."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", FAILS], stderr=theirs):
        os.close(theirs)
        shown = _all_of(ours)
    assert "gateway.request_failed" in shown
    assert "RuntimeError" in shown
    assert "out of order" in shown
    assert SECRET not in shown


def _all_of(terminal: int) -> str:
    found = b""
    try:
        while piece := os.read(terminal, 65_536):
            found += piece
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    return found.decode()
