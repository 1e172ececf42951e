"""The roles as parts of one process (`--single-process`, and every fallback)."""

import functools
import os
import time

from muster.fallback.standby import ActiveFallback
from muster.process.redis_wait import retry_until_reachable
from muster.process.roles import ROLES, Owner, Part, start_role
from muster.settings.settings import Settings
from muster.up.background import Background
from muster.up.messages import describe_role, echo_status


class RoleParts:
    """As `RoleProcesses`, within this process. `fallback`: the one that this serves, if any."""

    def __init__(
        self, settings: Settings, background: Background, fallback: ActiveFallback | None
    ) -> None:
        self._settings = settings
        self._stopping = background.stopping
        self._status = fallback.status if fallback else None
        self._parts: list[Part] = []

    @property
    def pids(self) -> set[int]:
        return set()

    async def start(self) -> str:
        """The gateway's address; empty if the end was asked for."""
        for role in ROLES:
            start = functools.partial(self._start_role, role)
            report = functools.partial(echo_status, role)
            if not await retry_until_reachable(start, self._stopping, report):
                return ""
        return next(url for part in self._parts if (url := getattr(part, "url", "")))

    async def stop(self) -> None:
        for part in reversed(self._parts):
            await part.stop()

    async def _start_role(self, role: str) -> None:
        started_at = time.monotonic()
        part = await start_role(role, self._settings, Owner(), self._status)
        self._parts.append(part)
        text = describe_role(role, self._settings, getattr(part, "url", ""))
        echo_status(role, f"{text} (in this process)", os.getpid(), started_at)
