"""Which levels of durability the Redis behind a gateway can give, asked anew all the time.

A server may be reconfigured, or another one may take its place. What is known here only decides
whether a command is refused before anything is written; that a level was reached is confirmed for
each command, at the server that has it.
"""

import asyncio
import time
from typing import Final

import structlog
from msgspec import Struct
from redis.exceptions import RedisError

from eventstore.connection.calls import UNREACHABLE, shielded, unreachable
from eventstore.connection.requirements import inspect
from eventstore.durability import capability
from eventstore.durability.capability import Capability
from eventstore.durability.confirmations import Confirmations, How, how_for
from eventstore.durability.waitaof import withholds
from eventstore.errors import LogError, MusterError
from eventstore.language.durability import Level
from eventstore.log.log import Log
from gateway.options import GatewayOptions

REFRESH_SECONDS: Final = 5.0
FRESH_SECONDS: Final = 0.5
"""A refusal rests on what was found out no longer ago than this."""

log = structlog.get_logger()


class DurabilityFacts(Struct, frozen=True, kw_only=True):
    """The level of commands that ask for none, and for each level why it cannot be given now."""

    default: str
    timeout_seconds: float
    levels: dict[str, str]
    """By level; empty text: it can be given."""
    appendfsync: str
    replicas: int
    replicas_wanted: int
    min_replicas_to_write: int


class Capabilities:
    """What is known of the server; `confirmations` waits for what it can give."""

    def __init__(self, options: GatewayOptions, events: Log) -> None:
        self.default = Level(options.durability)
        self.known: Capability | None = None
        self.confirmations = Confirmations(events, options.redis_url)
        self._timeout_seconds = options.limits.durability_seconds
        self._replicas = options.durability_replicas
        self._log = events
        self._seen_replicas = 0
        self._tried: tuple[str, str] | None = None
        self._withholds = False
        self._asked_at = -FRESH_SECONDS
        self._asking = asyncio.Lock()

    async def close(self) -> None:
        await self.confirmations.close()

    async def watch(self) -> None:
        """Ask again and again, so that it is known when it is needed."""
        while True:
            try:
                await self.refresh()
            except MusterError:
                self.known = None  # whoever follows may be another server
            await asyncio.sleep(REFRESH_SECONDS)

    async def lacking(self, level: Level) -> str:
        """Why a level cannot be given; empty if it can. Raises `LogUnreachable`."""
        if level in {Level.ACCEPTED, Level.ARCHIVED}:
            return ""
        known = self.known
        if known is None or known.lacking(level):
            known = await self.refresh()
        return known.lacking(level)

    def how(self, level: Level) -> How:
        """What to wait for, for a level that is not lacking."""
        return how_for(level, self.known or Capability(), self._replicas)

    async def refresh(self) -> Capability:
        """Ask the server. Raises `LogUnreachable`."""
        async with self._asking:
            if self.known is None or time.monotonic() - self._asked_at > FRESH_SECONDS:
                found = await shielded(self._ask)  # so that a cancellation is not lost in it
                self._say(found)
                self.known, self._asked_at = found, time.monotonic()
            return self.known

    async def _ask(self) -> Capability:
        client = self._log.client
        info = await inspect(client)
        config = await capability.configuration(client)
        self._seen_replicas = max(self._seen_replicas, int(info.get("connected_slaves", 0)))
        server = (str(info.get("run_id", "")), config.get("appendfsync", ""))
        if capability.may_withhold(info, config) and self._tried != server:
            self._withholds = await self._try_waitaof(server)
        return capability.judge(
            info,
            config,
            wanted_replicas=self._replicas,
            seen_replicas=self._seen_replicas,
            no_wait=await capability.waits(client),
            withholds=self._withholds and capability.may_withhold(info, config),
        )

    async def _try_waitaof(self, server: tuple[str, str]) -> bool:
        """Once for each server that tells, as soon as there is a log to try it with."""
        try:
            found = await withholds(self._log.client, self._log)
        except UNREACHABLE as error:
            raise unreachable(error) from error
        except (LogError, RedisError):
            return False
        if found is not None:
            self._tried = server
        return bool(found)

    def _say(self, found: Capability) -> None:
        """Once, when it is found that commands which ask for nothing cannot be given theirs."""
        why = found.lacking(self.default)
        if why and not (self.known and self.known.lacking(self.default)):
            log.warning("gateway.durability_lacking", level=self.default.value, why=why)

    def facts(self) -> DurabilityFacts:
        known = self.known or Capability(no_fsync="not known", no_replicas="not known")
        return DurabilityFacts(
            default=self.default.value,
            timeout_seconds=self._timeout_seconds,
            levels={level.value: known.lacking(level) for level in Level},
            appendfsync=known.appendfsync,
            replicas=known.replicas,
            replicas_wanted=self._replicas,
            min_replicas_to_write=known.min_replicas,
        )
