"""What a supervisor reports to Prometheus: of its own calls, and of the workers of its host.

Workers send what they measure (`workers/process/reports.py`). It is added up by pool, as
distributions: of a single worker nothing is reported, since there is no end of those.
"""

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from eventstore.errors import ConfigurationError
from eventstore.log.log import Log
from eventstore.metrics.measures import Measures, call_observer
from workers.launch.pool_processes import HostProcesses
from workers.process.reports import REPORT_BYTES_MAX, Report, socket_address
from workers.supervisor.pool_supervisor import PoolSupervisor

READ_AT_ONCE: Final = 100
"""Reports that are read before anything else gets its turn."""
BY_WORKERS: Final[Mapping[str, str]] = {
    "muster_worker_memory_bytes": "",
    "muster_worker_loop_lag_seconds": "",
    "muster_claim_seconds": "",
    "muster_append_seconds": "worker",
}
"""What workers measure, and its label; empty: their pool."""
_decoder: Final = msgspec.msgpack.Decoder(Report)


class SupervisorMetrics:
    """Of one host. `name`: that under which workers reach it."""

    def __init__(
        self, name: str, processes: HostProcesses, pools: Mapping[str, PoolSupervisor]
    ) -> None:
        self.measures = Measures()
        self._address, self._processes, self._pools = socket_address(name), processes, pools
        self._socket: socket.socket | None = None

    def start(self, log: Log) -> None:
        """Measure calls of this log, and receive reports. Raises `ConfigurationError`."""
        log.on_answered = call_observer(self.measures, "supervisor")
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            if not self._address.startswith("\0"):
                Path(self._address).unlink(
                    missing_ok=True
                )  # of one that died; there is one at a time
            receiver.bind(self._address)
        except OSError as error:
            receiver.close()
            raise ConfigurationError(f"metrics_port: workers cannot report: {error}") from error
        receiver.setblocking(False)
        self._socket = receiver
        asyncio.get_running_loop().add_reader(receiver, self._receive)

    def stop(self) -> None:
        """A second call does nothing."""
        receiver, self._socket = self._socket, None
        if receiver is not None:
            asyncio.get_running_loop().remove_reader(receiver)
            receiver.close()

    async def scrape(self) -> Sequence[Measures]:
        """The measures of now."""
        now = Measures()
        self.measures.retain_pools(self._live_pools())
        for pool, count in self._processes.counts().items():
            now.set("muster_worker_processes", count, pool)
        return self.measures, now

    def _live_pools(self) -> set[str]:
        return {name for name, pool in self._pools.items() if not pool.deleted}

    def _receive(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            for _ in range(READ_AT_ONCE):
                data = self._socket.recv(REPORT_BYTES_MAX)
                with contextlib.suppress(msgspec.MsgspecError, ValueError):  # not one of ours
                    self._add(_decoder.decode(data))

    def _add(self, report: Report) -> None:
        if report.pool not in self._pools:
            return
        for one in report.histograms:
            if one.name in BY_WORKERS:
                label = BY_WORKERS[one.name] or report.pool
                self.measures.histogram(one.name, label).add(one.counts, one.sum)
