"""What workers measure, on its way to the supervisor of their host, which reports it to Prometheus.

With each heartbeat a worker sends what was added since the last one as a datagram to a name that
only depends on the host, Redis and key prefix: so it reaches whichever supervisor is there. What
cannot be sent is added to the next one. Nothing of this runs where the supervisor has no port for
its metrics.
"""

import contextlib
import socket
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from eventstore.metrics.measures import Measures, call_observer

REPORT_BYTES_MAX: Final = 65_536


class Measured(Struct, frozen=True, array_like=True):
    """What a histogram has counted since the last report. Its label is known: there is one."""

    name: str
    counts: tuple[int, ...]
    sum: float


class Report(Struct, frozen=True, array_like=True):
    """The measures of one worker."""

    pool: str
    histograms: tuple[Measured, ...]


class _Heartbeat(Struct, frozen=True):
    """What is measured of a heartbeat."""

    loop_lag_ms: float = 0.0
    memory_bytes: int = 0


def socket_address(name: str) -> str:
    """Where a supervisor receives reports: on Linux a name that ends with its process."""
    on_linux = sys.platform.startswith("linux")
    return f"\0{name}" if on_linux else str(Path(tempfile.gettempdir()) / f"{name}.sock")


class Reports:
    """Of one worker; used on its event loop only."""

    def __init__(self, pool: str, name: str) -> None:
        self._pool, self._address = pool, socket_address(name)
        self._measures = Measures()
        self.observe_call = call_observer(self._measures, "worker")

    def send(self, heartbeat: bytes) -> None:
        """Measure what the last heartbeat says, and send all that was measured."""
        found = msgspec.json.decode(heartbeat, type=_Heartbeat)
        lag_seconds, memory_bytes = found.loop_lag_ms / 1000, found.memory_bytes
        self._measures.observe("muster_worker_loop_lag_seconds", lag_seconds, self._pool)
        if memory_bytes:  # else it is not known
            self._measures.observe("muster_worker_memory_bytes", memory_bytes, self._pool)
        self.flush()

    def flush(self) -> None:
        """Send what was measured."""
        histograms = {
            name: histogram
            for name, series in self._measures.histograms.items()
            for histogram in series.values()
            if any(histogram.counts)
        }
        taken = tuple(Measured(name, *one.values) for name, one in histograms.items())
        with contextlib.suppress(OSError):  # no supervisor, or it has not read the others yet
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(msgspec.msgpack.encode(Report(self._pool, taken)), self._address)
            for histogram in histograms.values():
                histogram.clear()
