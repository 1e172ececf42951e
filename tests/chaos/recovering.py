"""A log that has lost writes: noticed as an operator would, and recovered with `muster recover`.

A fault that takes the log away says so, and so does one that kills Redis: with `everysec` that may
forget what it acknowledged. Then the views stop with a reason, or the gateways say so. What the
recovery names as lost is kept for the judge in `unsaved.json`. In rounds without such a fault, and
with `always` also where Redis was only killed, nothing may be lost, and no gateway may say so.
Where the projectors recover by themselves (`--auto-recover`) their logs tell what they did.
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
LOOK_SECONDS = 0.5
ITSELF = frozenset({"", "spawn", "agent.requested", "holds"})
"""What a recovery calls the loss of an agent: by its command, its event, or that it ran."""
EXCUSED_ROUNDS = 2
"""A loss above the archive, in a pool that nobody asks for, is noticed when it is used again."""


def available() -> bool:
    """Whether this Muster has the command."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "muster", "recover", "--help"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


class Recovery:
    """Watches for damage and mends it, and knows when there may be some."""

    def __init__(self, system: System) -> None:
        self.count = 0
        self.unsaved = 0
        self.named: set[str] = set()
        """The agents of which a recovery said that they were lost, and not only their end."""
        self.offences: list[str] = []
        self._heard = ""
        self._system = system
        self._by_itself = system.options.recovers == "projector"
        self._available: bool | None = None
        self._excused = 0
        self._read: dict[str, int] = {}

    def expect(self, *, synced: bool) -> None:
        """A fault takes writes away. `synced`: also those that are on Redis' disk."""
        if synced or self._system.options.appendfsync == "everysec":
            self._excused = EXCUSED_ROUNDS

    def end_round(self) -> None:
        """Nothing is lost that was not noticed by now."""
        self.take_in()
        self._excused = max(self._excused - 1, 0)

    def hear(self, kind: str) -> None:
        """Of an answer that a gateway gave."""
        if kind in DAMAGED:
            self._heard = kind

    async def watch(self) -> float:
        """Recover whatever is damaged, until cancelled."""
        while True:
            if self._by_itself:
                self._heard = ""  # only what is said again is still so
            elif damage := await self.damage():
                await self._recover(damage)
            await asyncio.sleep(LOOK_SECONDS)

    async def damage(self, *, own: bool = False) -> str:
        """What Muster says of a log that is not what it was; empty if none is.

        `own`: what we see ourselves, too. That alone is no ground for recovering: Muster has to
        notice.
        """
        try:
            found = await asyncio.to_thread(checkpoints, self._system.views_url)
            heads = await asyncio.to_thread(heads_of, self._system) if own else {}
        except (*DATABASE_ERRORS, redis.RedisError):
            return self._heard
        for pool, seq, status in found:
            if status != "ok":
                return f"{pool or 'catalogue'}: {status}"
            if heads.get(pool, seq) < seq:
                return f"{pool or 'catalogue'}: the log ends at {heads[pool]}, the views at {seq}"
        return self._heard

    async def _recover(self, damage: str) -> None:
        self._hold_against(damage)
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
        self._heard = ""

    def _hold_against(self, damage: str) -> None:
        if not self._excused:
            self._excused = 1  # once is enough for a round
            self.offences.append(f"the log lost writes although it must not: {damage}")

    def take_in(self) -> None:
        """What gateways and projectors have said of lost logs since the last time."""
        for role in self._system.kinds("gateway"):
            for told in self._told(role.name):
                if told.get("event") == "log.lost":
                    count = told.get("acknowledged", "all")
                    where = told["pool"] or "catalogue"
                    self._hold_against(f"{role.name} misses {count} commands in {where}")
        if self._by_itself:
            self._take_in_recoveries()

    def _take_in_recoveries(self) -> None:
        logs: dict[str, list[dict[str, Any]]] = {}
        for role in self._system.kinds("projector"):
            for told in self._told(role.name):
                event = told.get("event")
                if event == "log.lost":
                    self._hold_against(f"{told['pool'] or 'catalogue'}: {told['reason']}")
                elif event == "log.recovered":
                    logs.setdefault(told["pool"], [])
                elif event == "command.lost":
                    logs.setdefault(told["pool"], []).append(told)
        self._note({"logs": [{"pool": p, "unsaved": unsaved} for p, unsaved in logs.items()]})

    def _told(self, role: str) -> Iterator[dict[str, Any]]:
        """The whole lines that a role has logged since last time."""
        with (self._system.folder / "logs" / f"{role}.log").open("rb") as file:
            file.seek(self._read.get(role, 0))
            lines = file.read()
        whole = lines.rpartition(b"\n")[0]
        self._read[role] = self._read.get(role, 0) + len(whole)
        for line in whole.splitlines():
            if line.startswith(b"{"):
                yield json.loads(line)

    def _run(self) -> "subprocess.CompletedProcess[str]":
        """As an operator runs it: beside the system, which stands and waits."""
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

    def _note(self, told: dict[str, Any]) -> None:
        """Add to what was told before, for the judge."""
        self.count += len(told["logs"])
        file = self._system.folder / "unsaved.json"
        logs = json.loads(file.read_text())["logs"] if file.exists() else []
        logs += told.get("logs", [])
        file.write_text(json.dumps({"logs": logs}))
        unsaved = [one for log in told.get("logs", ()) for one in log.get("unsaved", ())]
        self.unsaved += len(unsaved)
        self.named |= {str(one["agent_id"]) for one in unsaved if one.get("kind", "") in ITSELF}


class Unrecovered(Exception):
    """The log is damaged and stays so."""
