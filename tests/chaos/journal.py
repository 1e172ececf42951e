"""The client's journal: how each command ended, as the client saw it; the judge's evidence.

One JSON object a line, written when a command is decided: `acknowledged` (the answer said that it
is accepted), `refused` (every answer said that nothing was written), or `unknown` (no answer said
either). A command that was once unknown can still become acknowledged, by asking again with its
key; it is then counted as recovered. It can not become refused.
"""

import hashlib
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

Status = Literal["acknowledged", "refused", "unknown"]


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One command and its outcome. Times are in seconds; `at` since the start of the run."""

    kind: str
    pool: str
    status: Status
    agent_id: str = ""
    worker_id: str = ""
    operation_id: str = ""
    correlation_id: str = ""
    """The `X-Request-Id` of all its requests; their events have it as correlation id."""
    level: str = ""
    seq: int = 0
    """How far the log was when a spawn was acknowledged: its event is not above that."""
    ended_at: float = 0.0
    """CLOCK_BOOTTIME when an answer said that the agent had ended; 0 if none did."""
    recovered: bool = False
    said: str = ""
    """The last answer: a status code and a problem's type, or the error of the connection."""
    at: float = 0.0


class Journal:
    """Appends to a file; every line is written at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts = {"acknowledged": 0, "refused": 0, "unknown": 0, "recovered": 0}
        self.acknowledged: list[str] = []
        """The agents of acknowledged spawns."""
        self._file = path.open("ab", buffering=0)

    def note(self, entry: Entry) -> None:
        self.counts[entry.status] += 1
        self.counts["recovered"] += entry.recovered
        if entry.kind == "spawn" and entry.status == "acknowledged":
            self.acknowledged.append(entry.agent_id)
        self._file.write(msgspec.json.encode(entry) + b"\n")

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[Entry]:
    """A journal as it was written; a last line that was cut short is left out."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [msgspec.json.decode(line, type=Entry) for line in lines]


def operation_id(key: str) -> str:
    """What the log calls an operation that came with this `Idempotency-Key`."""
    return f"key:{hashlib.sha256(key.encode()).hexdigest()[:40]}"
