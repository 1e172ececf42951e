"""What the supervisors of all hosts report: that they live, and whether their host has room.

Each writes its own field of one hash every few seconds. A leader reads it when it places workers,
so that it orders none where they would not be started. At an idle pool, whose leader does not renew
its lead, the report shows that it lives. A host whose report is old has no
supervisor: nothing is ordered there, and once no worker is left on it, it is recorded as left. (A
supervisor that lives all the same joins again.) A host without a report has a supervisor of an
older version, unless it has this host's name: then it is a former boot.
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct, field

from eventstore.connection.calls import ask
from eventstore.keys import CATALOGUE
from eventstore.language.catalogue import Host
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.replies import fields_of
from eventstore.steps.step import Origin
from workers.host.capacity import host_pressure
from workers.host.processes import boot_seconds
from workers.launch.pool_processes import HostProcesses
from workers.supervisor.polling import Stopwatch

REPORT_SECONDS: Final = 5.0
GONE_MS: Final = 60_000
"""A report that is older says that its supervisor is gone."""
SWEEP_SECONDS: Final = 60
"""How often some supervisor looks for hosts that are gone."""

log = structlog.get_logger("muster.supervisor")


class HostReport(Struct, frozen=True):
    """What a host's supervisor reported last."""

    at_ms: int
    """When, in log time."""
    room: int
    """How many more workers it takes."""
    full: str = ""
    """Why none, in words."""
    pressure: float = 0.0
    """How much of its processors or memory is in use, whichever is more; 1: all."""

    def is_old(self, now_ms: int) -> bool:
        return now_ms - self.at_ms > GONE_MS


class HostReports(Struct, eq=False):
    """Writes the report of one host, and reads those of all."""

    _host: str
    _origin: Origin
    _catalogue: CatalogueLog
    _log: Log
    _local: HostProcesses
    _hosts_in_use: Callable[[], Collection[str]]
    _unchanged: Stopwatch = field(default_factory=Stopwatch)
    _silent: dict[str, float] = {}

    async def run(self) -> None:
        """Report, and sweep, until cancelled. Returns only by an error."""
        while True:
            room, full = self._local.room()
            report = HostReport(self._log.now_ms(CATALOGUE), room, full, host_pressure())
            text = msgspec.json.encode(report)
            await asyncio.gather(  # sent together, in this order
                self._ask("HSET", self._host, text), self._observe(), self._sweep()
            )
            await asyncio.sleep(REPORT_SECONDS * random.uniform(0.8, 1.0))

    async def _observe(self) -> None:
        """A holder of a lease is judged in the same way (see `polling`)."""
        reports, gap_seconds = await self.read(), 2 * REPORT_SECONDS
        seen = {(host, report.at_ms) for host, report in reports.items()}
        unchanged = self._unchanged.observe(seen, boot_seconds(), max_gap_seconds=gap_seconds)
        self._silent = {host: seconds for (host, _), seconds in unchanged.items()}

    def silent_seconds(self, host: str) -> float:
        """For how long its report has not changed; 0 for a host that has none."""
        return self._silent.get(host, 0.0)

    async def forget(self, host: str) -> None:
        await self._ask("HDEL", host)

    async def read(self) -> dict[str, HostReport]:
        """The reports that can be read. Raises `LogUnreachable`, `LogError`."""
        reports = {}
        for host, text in fields_of(await self._ask("HGETALL")).items():
            with contextlib.suppress(msgspec.MsgspecError):
                reports[host] = msgspec.json.decode(text, type=HostReport)
        return reports

    async def _sweep(self) -> None:
        """Record that hosts are gone, unless another supervisor has just done so."""
        once = (self._host, "NX", "EX", str(SWEEP_SECONDS))
        if await self._ask("SET", *once, part="hosts:swept") is None:
            return
        reports, now_ms = await self.read(), self._log.now_ms(CATALOGUE)
        in_use, hostname = self._hosts_in_use(), socket.gethostname()
        hosts = self._catalogue.state.hosts
        for name, report in reports.items():
            if report.is_old(now_ms) and (name not in hosts or hosts[name].status == "left"):
                await self.forget(name)
        oldest_ms = now_ms - self._log.retention.age_ms
        for host in tuple(hosts.values()):
            if host.status == "left" and host.changed_ms < oldest_ms:
                await self._catalogue.remove_host(host.host, self._origin)
            found = reports.get(host.host)
            if host.status == "left" or host.host in {*in_use, self._host}:
                continue
            if found is not None and found.is_old(now_ms):
                await self._leave(host, "its supervisor is gone")
            elif found is None and host.hostname == hostname:
                await self._leave(host, "a later boot has its name")

    async def _leave(self, host: Host, reason: str) -> None:
        await self._catalogue.leave_host(host.host, reason, self._origin)
        await self.forget(host.host)
        log.info("host.gone", host=host.host, hostname=host.hostname, reason=reason)

    async def _ask(self, command: str, *arguments: str | bytes, part: str = "hosts") -> Any:
        key = self._log.keys.pool(CATALOGUE, part)
        return await ask(self._log.client, command, key, *arguments, doing="the reports of hosts")
