"""An output and one agent's owner, captured for a test."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from workers.output.capture import Capture
from workers.output.levels import Levels
from workers.output.limits import OutputLimits
from workers.output.lines import Output, Owner

LEVELS = Levels(packages=("acme",), by_logger={"httpx": "INFO", "noise": "error"})


class Captured:
    def __init__(self, folder: Path, limits: OutputLimits | None = None) -> None:
        self.output = Output(str(folder), "pool", "w1", limits=limits, levels=LEVELS)
        self.owner = self.agent("a1")

    def agent(self, agent_id: str) -> Owner:
        return Owner({"agent_id": agent_id, "worker_id": "w1"}, self.output)

    def start(self) -> None:
        """(Within the test: pytest exchanges `sys.stdout` between its phases.)"""
        Capture.start(self.output)

    def stop(self) -> None:
        Capture.stop()
        self.output.close()

    def lines(self) -> list[dict[str, Any]]:
        path = self.output.file.path
        if not path.exists():
            return []
        return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]

    def texts(self) -> list[tuple[str, str]]:
        """Whose line it is, and its message or event."""
        return [
            (line.get("agent_id", ""), line.get("message") or line["event"])
            for line in self.lines()
        ]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """The lines, once there are so many; a second at most."""
        deadline = time.monotonic() + 1.0
        while len(self.lines()) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.lines()

    def as_agent(self, function: Callable[[], object]) -> None:
        self.owner.context().run(function)
