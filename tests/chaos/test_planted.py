"""The planted bugs fit the code as it is; that each is found is for `.ci/long` to see."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.planted import PLANTED

ROOT = Path(__file__).resolve().parents[2]
SENT = """
import asyncio, os, sys
import redis.asyncio  # which each of them would load by itself
from tests.chaos.planted import PLANTED, plant

class Client:
    async def execute_command(self, command, digest, *_):
        print(name, digest)
        return [b"OK", b"1", b"1", b"1"]

async def main():
    from eventstore.keys import Keys
    from eventstore.log.log import Log

    for script in ("commit", "admit", "claim"):
        await Log(Client(), Keys()).run_script(script, "p")

for name in ("none", *PLANTED):
    if os.fork() == 0:
        if name != "none":
            plant(name)
        asyncio.run(main())
        sys.exit()
    os.wait()
"""
"""Prints what a log sends to Redis, in a process with each bug, and in one with none."""
CHANGED = {
    "no-epoch-check": [False, False, True],
    "no-termination-flag": [False, False, True],
    "no-version-check": [True, False, False],
    "acknowledged-early": [False, False, False],
    "trimmed-by-length": [True, True, True],
    "client-retries": [False, False, False],
    "cordons-ignored": [True, True, True],
    "deadlines-ignored": [False, False, False],
    "replaced-at-once": [False, False, False],
    "busy-moved": [False, False, False],
    "moves-unlimited": [False, False, False],
    "caps-ignored": [False, False, False],
    "pauses-ignored": [False, False, False],
    "saves-not-stored": [False, False, False],
    "states-not-restored": [False, False, False],
}


@pytest.mark.long
def test_the_commands_of_a_log_have_the_planted_bug(subtests: pytest.Subtests) -> None:
    """A bug in a script that is not loaded would never be found.

    One whose text is gone from a script would leave a Muster that does nothing at all.
    """
    done = subprocess.run(
        [sys.executable, "-c", SENT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    sent: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, digest = line.split()
        sent.setdefault(name, []).append(digest)
    assert CHANGED.keys() == PLANTED.keys()
    for name, changed in CHANGED.items():
        with subtests.test(name):
            pairs = zip(sent["none"], sent[name], strict=True)
            assert [one != another for one, another in pairs] == changed
