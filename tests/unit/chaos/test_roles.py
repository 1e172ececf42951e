"""What the harness says of a role that ends, and of one that ends otherwise than it was asked."""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import pytest

from tests.chaos.roles import Role
from tests.waiting import until

WAITS = "import time; time.sleep(60)"
ORDERLY = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))
print("ready", flush=True)
time.sleep(60)
"""


async def ended(folder: Path, program: str, *signals: signal.Signals) -> list[str]:
    """What is said of a role whose first process is this one, and gets these signals."""
    log = folder / "role.log"
    role = Role("supervisor-a", [], {}, log)
    role._command = [sys.executable, "-c", program]
    keeping = asyncio.create_task(role.restart_on_exit())
    try:
        if signals:
            await until(lambda: role.pid, what="it runs")
        if "ready" in program:
            await until(lambda: "ready" in log.read_text(), what="it is ready")
        for number in signals:
            role.send(number)
        await until(lambda: role.starts > 1, what="its successor")
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        role.send(signal.SIGKILL)
        await until(lambda: not role.pid, what="its end")
    return role.offences


@pytest.mark.parametrize(
    ("program", "number"),
    [
        (WAITS, signal.SIGKILL),
        (WAITS, signal.SIGTERM),
        (ORDERLY.format(code=0), signal.SIGTERM),
    ],
)
async def test_a_role_that_ends_on_request_is_no_offence(
    tmp_path: Path, program: str, number: signal.Signals
):
    assert await ended(tmp_path, program, number) == []


async def test_a_role_that_ends_by_itself_is_found(tmp_path: Path):
    """A restart would hide that."""
    for program, code in (("", 0), ("raise ValueError", 1)):
        found = await ended(tmp_path, program)
        assert found[0] == f"supervisor-a ended by itself, with exit code {code}"


async def test_a_role_that_fails_at_its_end_is_found(tmp_path: Path):
    """It was asked to hand over, and did not."""
    [found] = await ended(tmp_path, ORDERLY.format(code=1), signal.SIGTERM)
    assert found == "supervisor-a ended not in good order, with exit code 1"
