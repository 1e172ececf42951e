"""A role as a process: it reports to its parent that it is ready, and stops on a signal."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from eventstore.errors import ConfigurationError, MusterError
from muster.process import log_output
from muster.process.log_preparation import prepare
from muster.process.redis_wait import retry_until_reachable
from muster.process.roles import Owner, Part, RoleStatus, start_role
from muster.settings.settings import Settings

log = structlog.get_logger("muster")


def run(role: str, settings: Settings) -> int:
    """Run one role until a signal ends it; returns the exit code."""
    file = os.environ.get("MUSTER_ROLE_LOG")
    log_output.configure(role, level=settings.log_level, file=Path(file) if file else None)
    owner = Owner(
        int(os.environ.get("MUSTER_OWNER_PID", "0")), int(os.environ.get("MUSTER_OWNER_START", "0"))
    )
    report = status_reporter()
    try:
        if not settings.redis_url:
            raise ConfigurationError(
                f"muster {role} needs a Redis: set MUSTER_REDIS_URL (or REDIS_URL), or use"
                " `muster up`, which brings its own"
            )
        if settings.fallback != "none":
            raise ConfigurationError(
                f"{settings.sources.get('fallback', 'fallback')}: only `muster up` has a fallback,"
                f" `muster {role}` has none"
            )
        asyncio.run(_serve(role, settings, owner, report))
    except MusterError as error:
        report(RoleStatus(failed=str(error)))
        print(f"muster {role}: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(
    role: str, settings: Settings, owner: Owner, report: Callable[[RoleStatus], None]
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, stopping.set)
    started: list[Part] = []

    async def start() -> None:
        await prepare(settings, role)
        started.append(await start_role(role, settings, owner))

    if not await retry_until_reachable(start, stopping):
        return
    [part] = started
    try:
        report(RoleStatus(ready=True, url=getattr(part, "url", "")))
        log.info("role.ready", pid=os.getpid(), url=getattr(part, "url", None))
        await stopping.wait()
    finally:
        await part.stop()


def stop_signals() -> Sequence[signal.Signals]:
    """Those that stop a process in order. Under `nohup` the end of a terminal does not."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def status_reporter() -> Callable[[RoleStatus], None]:
    """How to report to the process that started this one; does nothing where none did."""
    number = os.environ.get("MUSTER_READY_FD", "")

    def report(status: RoleStatus) -> None:
        nonlocal number
        if number:
            with os.fdopen(int(number), "wb") as pipe:
                pipe.write(msgspec.json.encode(status) + b"\n")
            number = ""

    return report
