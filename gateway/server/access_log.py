"""A line for each request: `gateway.answered`, of which the access log is the full form.

It has who called (the name of a token), from where, and what became of it. It has no header, no
body and no query, which may hold what is secret; paths have only names and ids. Probes are left
out.
"""

from typing import Final

import structlog

from gateway.backend.call import Call
from gateway.server.paths import PROBES

log = structlog.get_logger("muster.gateway")

CLIENT_LEFT: Final = 499
"""The status of a request whose client left before its answer was complete, as nginx has it."""
PATH_MAX: Final = 200


class AccessLog:
    """Of one gateway. `full`: for operators; else a short line, for whoever debugs."""

    def __init__(self, *, full: bool) -> None:
        self._full = full
        self._log = log.bind()  # once, not for every request

    def record(self, call: Call, method: str, status: int, seconds: float) -> None:
        """Log one request. `status`: of the answer, or `CLIENT_LEFT`."""
        ms, route = round(seconds * 1000, 1), call.route
        if not self._full or call.request.path in PROBES:
            self._log.debug("gateway.answered", method=method, route=route, status=status, ms=ms)
            return
        self._log.info(
            "gateway.answered",
            method=method,
            route=route,
            status=status,
            ms=ms,
            path=call.request.path[:PATH_MAX],
            actor=call.origin.actor,
            client=call.request.remote or "",
            request_id=call.origin.correlation_id,
        )
