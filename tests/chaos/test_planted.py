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
    python(f"from tests.chaos.planted import plant; plant({name!r})")


SENT = """
import asyncio
from eventstore.keys import Keys
from eventstore.log.log import Log

class Client:
    async def execute_command(self, word, digest, *_):
        print(digest)
        return [b"OK", b"1", b"1", b"1"]

async def main():
    for name in ("commit", "admit", "claim"):
        await Log(Client(), Keys()).run_script(name, "p")

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("no-epoch-check", [False, False, True]),
        ("no-termination-flag", [False, False, True]),
        ("no-version-check", [True, False, False]),
        ("trimmed-by-length", [True, True, True]),
        ("client-retries", [False, False, False]),
    ],
)
def test_the_commands_of_a_log_have_the_planted_bug(name: str, other: list[bool]):
    """One in a text that nobody asks for would be looked for in vain."""
    whole = python(SENT)
    planted = python(f"from tests.chaos.planted import plant; plant({name!r})\n{SENT}")
    assert [one != another for one, another in zip(whole, planted, strict=True)] == other


def python(code: str) -> list[str]:
    """What it prints, line by line."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()
