"""What this gateway has observed since it started: its measures, and since when faults last."""

import time
from typing import Final

from aiohttp import hdrs
from msgspec import Struct

from eventstore.metrics.measures import Measures
from gateway.wire.problems import Kind

READING: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})
CARRIED_OUT: Final = frozenset({Kind.AGENT_START_FAILED, Kind.AGENT_WITHDRAWN})
"""Problems of commands that were accepted."""


class Reason(Struct, frozen=True):
    reason: str = ""


class Observations:
    """The count of requests, and the faults that were observed."""

    def __init__(self) -> None:
        self.measures = Measures()
        self._faults: dict[str, tuple[str, int]] = {}

    def forget(self, pool: str) -> None:
        """A pool that was removed has no faults any more."""
        self._faults.pop(f"views:{pool}", None)

    def since(self, subject: str, fault: str) -> int:
        """When this fault of a subject was first observed, in ms; 0 for none (empty)."""
        if not fault:
            self._faults.pop(subject, None)
            return 0
        known_fault, since_ms = self._faults.get(subject, ("", 0))
        if known_fault != fault:
            since_ms = int(time.time() * 1000)
            self._faults[subject] = fault, since_ms
        return since_ms

    def count_request(
        self, method: str, route: str, status: int, seconds: float, problem: str = ""
    ) -> None:
        """One request was answered, perhaps with a problem of that kind."""
        measures, status_class = self.measures, f"{status // 100}xx"
        measures.count("muster_http_requests_total", method, route, str(status))
        measures.observe("muster_http_request_seconds", seconds, method, route, status_class)
        if problem and method not in READING and problem not in CARRIED_OUT:
            measures.count("muster_commands_refused_total", route, problem)
