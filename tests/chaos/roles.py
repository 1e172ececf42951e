"""The processes of Muster: each one is started, watched, and restarted when it has died.

In production an init system restarts dead roles; here `Role.restart_on_exit` does. A role is
started with the harness as its owner, so that its workers end if the harness is killed.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from eventstore.embedded.server import end_with_parent
from workers.host.process_tree import descendants
from workers.host.processes import start_time

RESTART_SECONDS = 0.3
POLL_SECONDS = 0.05
ORDERLY = frozenset({0, -signal.SIGTERM, -signal.SIGKILL})
"""How a role ends that was asked to: in good order, or before it could know of signals."""


class Role:
    """One process of Muster, one at a time."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        plant: str = "",
    ) -> None:
        self.name = name
        self.starts = 0
        self.suspended = False
        """While set it is not started again."""
        self.offences: list[str] = []
        """Exits that were not requested, or with a wrong code."""
        planted = ["tests.chaos.planted", plant, "--"] if plant else []
        self._command = [sys.executable, "-P", "-m", *planted, "muster", *arguments]
        self._environment = {
            **environment,
            "MUSTER_OWNER_PID": str(os.getpid()),
            "MUSTER_OWNER_START": str(start_time(os.getpid())),
        }
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False
        """Whether its process was asked to end."""

    @property
    def kind(self) -> str:
        """gateway, supervisor or projector."""
        return self.name.partition("-")[0]

    @property
    def pid(self) -> int:
        """Of the process that runs, else 0."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    def start(self) -> None:
        """Start its process. From the main thread: its death signal is bound to that."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent(),  # noqa: PLW1509  # from the main thread
            )
        self.starts += 1
        self._asked = False

    async def restart_on_exit(self) -> None:
        """Start it whenever it does not run, until cancelled."""
        while True:
            self._check_exit()
            if not self.pid and not self.suspended:
                if self.starts:
                    await asyncio.sleep(RESTART_SECONDS)
                self.start()
            await asyncio.sleep(POLL_SECONDS)

    def _check_exit(self) -> None:
        """Note how its process ended, once it has."""
        code = self._process.poll() if self._process else None
        if code is not None:
            self._process = None
            if not self._asked or code not in ORDERLY:
                how = "not in good order" if self._asked else "by itself"
                self.offences.append(f"{self.name} ended {how}, with exit code {code}")

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to this very process; False if there is none."""
        if not self.pid or self._process is None:
            return False
        self._asked = self._asked or number in {signal.SIGTERM, signal.SIGKILL}
        self._process.send_signal(number)
        return True


def workers(roles: Mapping[str, Role]) -> list[int]:
    """The worker processes below this one, oldest first: forked from a zygote, and not it."""
    supervisors = _supervisors(roles)
    return [pid for pid, parent in _forking() if parent not in supervisors]


def zygotes(roles: Mapping[str, Role]) -> list[int]:
    """The processes that workers are forked from, oldest first."""
    supervisors = _supervisors(roles)
    return [pid for pid, parent in _forking() if parent in supervisors]


def _supervisors(roles: Mapping[str, Role]) -> set[int]:
    return {role.pid for role in roles.values() if role.kind == "supervisor"}


def _forking() -> list[tuple[int, int]]:
    """Zygotes and workers (they share a command line) with their parents, oldest first."""
    found = []
    for pid in descendants(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if b"workers.launch.zygote" in command:
            found.append((pid, parent))
    return sorted(found, key=lambda one: (start_time(one[0]), one[0]))
