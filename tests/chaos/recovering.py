"""A log that has lost writes: noticed as an operator would, and recovered with `muster recover`.

A fault that removes the log reports it, and so does one that kills Redis: with `everysec` that may
lose acknowledged writes. Then the views stop with a reason, or the gateways report it. What the
recovery names as lost is stored for the judge in `unsaved.json`. In rounds without such a fault,
and with `always` also where Redis was only killed, nothing may be lost, and no gateway may say so.
Where the projectors recover by themselves (`--auto-recover`) their logs say what they did.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import redis

from tests.chaos.rest import checkpoints, heads_of
from tests.chaos.system import System
from tests.chaos.views import DATABASE_ERRORS

RECOVER_SECONDS = 120
DAMAGED = ("log-rolled-back", "log-missing", "log-halted")
POLL_SECONDS = 0.5
ITSELF = frozenset({"", "spawn", "agent.requested", "holds"})
"""What a recovery calls the loss of an agent: by its command, its event, or that it ran."""
EXCUSED_ROUNDS = 2
"""A loss above the archive, in a pool without requests, is noticed when it is used again."""


def available() -> bool:
    """Whether this Muster has the command."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "muster", "recover", "--help"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


class Recovery:
    """Watches for damage and repairs it, and knows when there may be some."""

    def __init__(self, system: System) -> None:
        self.count = 0
        self.unsaved = 0
        self.named: set[str] = set()
        """The agents of which a recovery said that they were lost, and not only their end."""
        self.offences: list[str] = []
        self.busy = asyncio.Lock()
        """Held while the command runs."""
        self._problem = ""
        self._system = system
        self._automatic = system.options.recovers == "projector"
        self._available: bool | None = None
        self._excused = 0
        self._read: dict[str, int] = {}

    def expect(self, *, synced: bool) -> None:
        """A fault removes writes. `synced`: also those that are on Redis' disk."""
        if synced or self._system.options.appendfsync == "everysec":
            self._excused = EXCUSED_ROUNDS

    def end_round(self) -> None:
        """Nothing is lost that was not noticed by now."""
        self.read_logs()
        self._excused = max(self._excused - 1, 0)

    def note_problem(self, kind: str) -> None:
        """Note the kind of a problem that a gateway answered."""
        if kind in DAMAGED:
            self._problem = kind

    async def watch(self) -> float:
        """Recover whatever is damaged, until cancelled."""
        while True:
            if self._automatic:
                self._problem = ""  # only what is said again is still so
            elif damage := await self.damage():
                async with self.busy:
                    await self._recover(damage)
            await asyncio.sleep(POLL_SECONDS)

    async def damage(self, *, own: bool = False) -> str:
        """What Muster says about a damaged log; empty if none is.

        `own`: also what the harness sees. That is no reason to recover: Muster must notice it.
        """
        try:
            found = await asyncio.to_thread(checkpoints, self._system.views_url)
            heads = await asyncio.to_thread(heads_of, self._system) if own else {}
        except (*DATABASE_ERRORS, redis.RedisError):
            return self._problem
        for pool, seq, status in found:
            if status != "ok":
                return f"{pool or 'catalogue'}: {status}"
            if heads.get(pool, seq) < seq:
                return f"{pool or 'catalogue'}: the log ends at {heads[pool]}, the views at {seq}"
        return self._problem

    async def _recover(self, damage: str) -> None:
        self._report_loss(damage)
        if self._available is None:
            self._available = await asyncio.to_thread(available)
        if not self._available:
            raise Unrecovered(f"{damage}; this Muster has no `muster recover`")
        done = await asyncio.to_thread(self._run)
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-1000:]
            self.offences.append(f"`muster recover` ended with {done.returncode}: {said}")
            raise Unrecovered(damage)
        self._note(json.loads(done.stdout))
        self._problem = ""

    def _report_loss(self, damage: str) -> None:
        if not self._excused:
            self._excused = 1  # once is enough for a round
            self.offences.append(f"the log lost writes although it must not: {damage}")

    def read_logs(self) -> None:
        """Read what gateways and projectors have logged of lost logs since the last call."""
        for role in self._system.kinds("gateway"):
            for line in self._lines(role.name):
                if line.get("event") == "log.lost":
                    count = line.get("acknowledged", "all")
                    where = line["pool"] or "catalogue"
                    self._report_loss(f"{role.name} misses {count} commands in {where}")
        if self._automatic:
            self._read_recoveries()

    def _read_recoveries(self) -> None:
        logs: dict[str, list[dict[str, Any]]] = {}
        for role in self._system.kinds("projector"):
            for line in self._lines(role.name):
                event = line.get("event")
                if event == "log.lost":
                    self._report_loss(f"{line['pool'] or 'catalogue'}: {line['reason']}")
                elif event == "log.recovered":
                    logs.setdefault(line["pool"], [])
                elif event == "command.lost":
                    logs.setdefault(line["pool"], []).append(line)
        self._note({"logs": [{"pool": p, "unsaved": unsaved} for p, unsaved in logs.items()]})

    def _lines(self, role: str) -> Iterator[dict[str, Any]]:
        """The complete lines that a role has logged since the last call."""
        with (self._system.folder / "logs" / f"{role}.log").open("rb") as file:
            file.seek(self._read.get(role, 0))
            lines = file.read()
        complete = lines.rpartition(b"\n")[0]
        self._read[role] = self._read.get(role, 0) + len(complete)
        for line in complete.splitlines():
            if line.startswith(b"{"):
                yield json.loads(line)

    def _run(self) -> "subprocess.CompletedProcess[str]":
        """Run it as an operator does: while the system runs and waits."""
        system = self._system
        environment = {n: v for n, v in os.environ.items() if not n.startswith("MUSTER_")}
        environment["MUSTER_REDIS_URL"] = system.redis.url
        environment["MUSTER_DATABASE_URL"] = system.views_url
        return subprocess.run(
            [sys.executable, "-P", "-m", "muster", "recover", "--json"],
            env=environment,
            cwd=system.folder / "logs",
            capture_output=True,
            text=True,
            timeout=RECOVER_SECONDS,
            check=False,
        )

    def _note(self, report: dict[str, Any]) -> None:
        """Append a report, for the judge."""
        self.count += len(report["logs"])
        file = self._system.folder / "unsaved.json"
        logs = json.loads(file.read_text())["logs"] if file.exists() else []
        logs += report.get("logs", [])
        file.write_text(json.dumps({"logs": logs}))
        unsaved = [one for log in report.get("logs", ()) for one in log.get("unsaved", ())]
        self.unsaved += len(unsaved)
        self.named |= {str(one["agent_id"]) for one in unsaved if one.get("kind", "") in ITSELF}


class Unrecovered(Exception):
    """The log is damaged and stays so."""
