"""The roles as processes of their own: started together, restarted on exit, stopped in order.

Or as parts of one process, for `--single-process` and every fallback.
"""

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import structlog
from msgspec.structs import replace

from eventstore.errors import ConfigurationError, MusterError
from eventstore.ticks import set_within
from muster.fallback.standby import ActiveFallback
from muster.process.child import Child, NoStatus
from muster.process.forked_roles import ForkedRole, command_of
from muster.process.part import Part
from muster.process.redis_wait import retry_until_reachable, run_unless_stopped
from muster.process.restarts import restart_on_exit
from muster.process.roles import ROLES, Owner, RoleStatus, start_role
from muster.settings.environment import role_environment
from muster.settings.settings import Settings
from muster.up.background import Background
from muster.up.log_server import check_server
from muster.up.messages import describe_role, echo, echo_status
from workers.host.processes import start_time

log = structlog.get_logger("muster.up")

READY_SECONDS = 60.0
STOP_SECONDS = 5.0
START_RETRY_SECONDS = (0.5, 2.0, 5.0)
"""Seconds until a role that reports nothing is started again; if it still does not, all ends."""
STOP_ORDER = ("gateway", "supervisor", "projector")


def settings_of(role: str, settings: Settings) -> Settings:
    """A role's own: the metrics of the projector have the port after those of the supervisor."""
    if role == "projector" and settings.metrics_port:
        return replace(settings, metrics_port=settings.metrics_port + 1)
    return settings


class RoleProcesses:
    """One process for each role; the first ones are those that were `forked`."""

    def __init__(
        self,
        settings: Settings,
        background: Background,
        forked: Mapping[str, ForkedRole] | None = None,
    ) -> None:
        self._settings = settings
        self._background = background
        self._stopping = background.stopping
        self._forked = forked or {}
        self._children: dict[str, Child] = {}

    @property
    def pids(self) -> set[int]:
        return {child.pid for child in self._children.values() if child.code is None}

    async def start(self) -> str:
        """The gateway's address; empty if the end was asked for. Raises `ConfigurationError`."""
        for role in ROLES:
            self._children[role] = Child(
                role,
                command_of(role),
                self._environment(role),
                self._settings.log_dir / f"{role}.err",
                self._forked.get(role),
            )
        starting = asyncio.gather(*map(self._start_role, ROLES))
        if not await run_unless_stopped(self._stopping, starting):
            return ""
        for role in ROLES:
            child, start = self._children[role], functools.partial(self._restart, role)
            self._background.run(role, restart_on_exit(child, start, self._stopping, echo))
        return next(filter(None, starting.result()), "")

    async def stop(self) -> None:
        limits = {"supervisor": self._settings.shutdown_seconds + STOP_SECONDS}
        for role in STOP_ORDER:
            child = self._children.get(role)
            if child and not await child.stop(limits.get(role, STOP_SECONDS)):
                echo(f"{role} had to be killed")

    def _environment(self, role: str) -> dict[str, str]:
        settings = replace(settings_of(role, self._settings), fallback="none", embedded=False)
        return {
            **role_environment(role, settings, os.environ),
            "MUSTER_OWNER_PID": str(os.getpid()),
            "MUSTER_OWNER_START": str(start_time(os.getpid())),
            "MUSTER_ROLE_LOG": str((settings.log_dir / f"{role}.jsonl").absolute()),
        }

    async def _start_role(self, role: str) -> str:
        started_at, child = time.monotonic(), self._children[role]
        status = await self._start_with_retries(role)
        if status.failed:
            if self._stopping.is_set():
                return ""
            raise ConfigurationError(f"{role}: {status.failed}")
        if port := urlsplit(status.url).port:
            child.environment["MUSTER_PORT"] = str(port)  # the same one when it is restarted
        text = describe_role(role, settings_of(role, self._settings), status.url)
        echo_status(role, text, child.pid, started_at)
        return status.url

    async def _start_with_retries(self, role: str) -> RoleStatus:
        """Again where it reports nothing: it was killed, or the system gave it no process."""
        status = await self._start_and_wait(role)
        for seconds in START_RETRY_SECONDS:
            if not isinstance(status, NoStatus) or self._stopping.is_set():
                break
            reason = f"could not be started: {status.failed}"
            echo_status(role, f"{reason}; starting it again in {seconds:g} s")
            log.warning("role.ended", process=role, reason=reason, again_in_seconds=seconds)
            await self._children[role].stop(STOP_SECONDS)
            if await set_within(self._stopping, seconds):
                break
            status = await self._start_and_wait(role)
        return status

    async def _restart(self, role: str) -> str:
        try:
            status = await self._start_and_wait(role)
        except MusterError as error:
            status = RoleStatus(failed=str(error))
        if status.ready:
            return ""
        await self._children[role].stop(STOP_SECONDS)
        return f"could not be started: {status.failed}"

    async def _start_and_wait(self, role: str) -> RoleStatus:
        """Its report: waited for a while, but while Redis is unreachable as long as it takes."""
        child = self._children[role]
        status = await child.start(READY_SECONDS)
        while child.awaiting_status and await self._redis_was_unreachable(role):
            status = await child.wait_status(READY_SECONDS)
        return status

    async def _redis_was_unreachable(self, role: str) -> bool:
        """Whether a silent role waits for Redis; returns once Redis is reachable."""
        messages: list[str] = []

        def report(text: str) -> None:
            messages.append(text)
            echo_status(role, text)

        check = functools.partial(check_server, self._settings)
        await retry_until_reachable(check, self._stopping, report)
        return bool(messages)


class RoleParts:
    """As `RoleProcesses`, within this process. `fallback`: the one that this serves, if any."""

    def __init__(
        self, settings: Settings, background: Background, fallback: ActiveFallback | None
    ) -> None:
        self._settings = settings
        self._stopping = background.stopping
        self._status = fallback.status if fallback else None
        self._parts: list[Part] = []

    async def start(self) -> str:
        """The gateway's address; empty if the end was asked for."""
        for role in ROLES:
            start = functools.partial(self._start_role, role)
            report = functools.partial(echo_status, role)
            if not await retry_until_reachable(start, self._stopping, report):
                return ""
        return next(url for part in self._parts if (url := getattr(part, "url", "")))

    async def stop(self) -> None:
        """Stop them all, the last one first, also where one of them fails."""
        async with contextlib.AsyncExitStack() as stopping:
            for part in self._parts:
                stopping.push_async_callback(part.stop)

    async def _start_role(self, role: str) -> None:
        started_at = time.monotonic()
        settings = settings_of(role, self._settings)
        part = await start_role(role, settings, Owner(), self._status)
        self._parts.append(part)
        text = describe_role(role, settings, getattr(part, "url", ""))
        echo_status(role, f"{text} (in this process)", os.getpid(), started_at)
