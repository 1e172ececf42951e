"""The verdict: what the judge finds in the log, the views, the journal and the agents' records.

This is the only place that runs the judge. It is a process of its own, as when a person judges a
retained folder by hand.
"""

import subprocess
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

ROOT = Path(__file__).resolve().parents[2]
JUDGE_SECONDS = 300


class Found(Struct):
    """An offence, as the judge writes it."""

    invariant: int
    why: str
    pool: str = ""
    generation: int = 0
    seq: int = 0
    type: str = ""
    subject: str = ""

    def __str__(self) -> str:
        event = f" {self.generation}:{self.seq} {self.type}" if self.seq else ""
        where = f"{self.pool or 'catalogue'}{event} {self.subject}".strip()
        return f"invariant {self.invariant}: {where}: {self.why}"


class Verdict(Struct):
    """What the judge prints with `--json`."""

    offences: list[Found]


def command(redis_url: str, views_url: str, folder: Path) -> list[str]:
    """How the judge is asked about a system at rest."""
    asked = [sys.executable, "-m", "tests.chaos.judge", "--redis", redis_url, "--views", views_url]
    asked += ["--acknowledged", str(folder / "journal.jsonl"), "--at-rest"]
    asked += ["--traces", str(folder / "trace")]
    if (folder / "paused.jsonl").exists():
        asked += ["--paused", str(folder / "paused.jsonl")]
    if (folder / "unsaved.json").exists():
        asked += ["--unsaved", str(folder / "unsaved.json")]
    return asked


def judge(redis_url: str, views_url: str, folder: Path) -> list[str]:
    """All offences, in words."""
    done = subprocess.run(
        [*command(redis_url, views_url, folder), "--json"],
        cwd=ROOT,
        capture_output=True,
        timeout=JUDGE_SECONDS,
        check=False,
    )
    if done.returncode not in (0, 1) or not done.stdout:
        return [f"the judge failed with {done.returncode}: {done.stderr.decode()[-2000:]}"]
    return [str(found) for found in msgspec.json.decode(done.stdout, type=Verdict).offences]
