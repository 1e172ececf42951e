"""Which levels of durability the Redis behind a gateway can give, polled in the background.

A server may be reconfigured or replaced by another one. What is known here only decides whether a
command is refused before anything is written; that a level was reached is confirmed for each
command, at the server that has it.
"""

import asyncio
import time
from typing import Final

import structlog
from msgspec import Struct

from eventstore.connection.requirements import inspect
from eventstore.durability import capability
from eventstore.durability.capability import Capability
from eventstore.durability.confirmations import Confirmations, WaitTarget
from eventstore.errors import MusterError
from eventstore.language.durability import Level
from eventstore.log.log import Log
from eventstore.ticks import tick
from gateway.options import GatewayOptions

REFRESH_SECONDS: Final = 5.0
CACHE_SECONDS: Final = 0.5
"""A refusal is based on what was read no longer ago than this."""
TOGETHER_SECONDS: Final = 0.05
"""Who asks so soon after another gets the same answer."""
SECTIONS: Final = ("server", "clients", "memory", "persistence", "replication")
"""Of the server's INFO: what gateways report of it, too."""
ALWAYS: Final = frozenset((Level.ACCEPTED, Level.ARCHIVED))
"""The levels that any server can give."""

log = structlog.get_logger("muster.gateway")


class DurabilityFacts(Struct, frozen=True, kw_only=True):
    """The level of commands that request none, and for each level why it cannot be given now."""

    default: str
    timeout_seconds: float
    levels: dict[str, str]
    """By level; empty if it can be given."""
    appendfsync: str
    replicas: int
    replicas_wanted: int
    min_replicas_to_write: int


class Capabilities:
    """What is known of the server; `confirmations` waits for what it can give."""

    def __init__(self, options: GatewayOptions, event_log: Log) -> None:
        self.default = Level(options.durability)
        self.capability: Capability | None = None
        self._info: dict[str, str] = {}
        self._asked_at = 0.0
        """When that was asked for."""
        self.confirmations = Confirmations(event_log, options.redis_url)
        self._options = options
        self._log = event_log
        self._replicas_max = 0
        self._refreshed_at = -CACHE_SECONDS
        self._refresh_lock = asyncio.Lock()

    async def watch(self) -> None:
        """Poll the server, so that its capability is known when it is needed."""
        while True:
            try:
                await self.refresh()
            except MusterError:
                self.capability = None  # the next that answers may be another server
            await tick(REFRESH_SECONDS)

    async def unavailable_reason(self, level: Level) -> str:
        """Why a level cannot be given; empty if it can. Raises `LogUnreachable`."""
        if level in ALWAYS:
            return ""
        capability = self.capability
        if capability is None or capability.unavailable_reason(level):
            capability = await self.refresh()
        return capability.unavailable_reason(level)

    def confirmation_method(self, level: Level) -> WaitTarget:
        """What to wait for, for a level that can be given."""
        return WaitTarget(level, self._options.durability_replicas)

    async def refresh(self) -> Capability:
        """Ask the server. Raises `LogUnreachable`."""
        async with self._refresh_lock:
            capability = self.capability
            if capability is None or time.monotonic() - self._refreshed_at > CACHE_SECONDS:
                capability = await self._refresh()
            return capability

    async def _refresh(self) -> Capability:
        """Raises `LogUnreachable`."""
        capability = await self._query_server()
        reason = capability.unavailable_reason(self.default)
        known = self.capability and self.capability.unavailable_reason(self.default)
        if reason and not known:
            level = self.default.value
            log.warning("gateway.durability_unavailable", level=level, reason=reason)
        self.capability, self._refreshed_at = capability, time.monotonic()
        return capability

    async def server_info(self) -> dict[str, str]:
        """What the server reports of itself; asked for once by all who ask at the same time.

        Raises `LogUnreachable`, `ServerUnsuitable`.
        """
        asked_at = time.monotonic()
        async with self._refresh_lock:
            if self._asked_at < asked_at - TOGETHER_SECONDS:
                await self._refresh()
            return self._info

    async def _query_server(self) -> Capability:
        client, asked_at = self._log.client, time.monotonic()
        info, config, wait_refused = await asyncio.gather(
            inspect(client, *SECTIONS),
            capability.configuration(client),
            capability.wait_refusal(client),
        )
        self._info, self._asked_at = info, asked_at
        self._replicas_max = max(self._replicas_max, int(info.get("connected_slaves", 0)))
        return capability.assess(
            info,
            config,
            wanted_replicas=self._options.durability_replicas,
            peak_replicas=self._replicas_max,
            wait_refused=wait_refused,
        )

    def facts(self) -> DurabilityFacts:
        capability = self.capability or Capability(
            no_fsync_reason="not known", no_replicas_reason="not known"
        )
        return DurabilityFacts(
            default=self.default.value,
            timeout_seconds=self._options.limits.durability_seconds,
            levels={level.value: capability.unavailable_reason(level) for level in Level},
            appendfsync=capability.appendfsync,
            replicas=capability.replicas,
            replicas_wanted=self._options.durability_replicas,
            min_replicas_to_write=capability.min_replicas,
        )
