"""Running a role: the composition root of the gateway, the supervisor and the projector.

Each role is a part with `start` and `stop`. What they share stands here: the server is checked
first, the declared pools are applied, readiness is told to whoever started the process, and signals
end it in good order.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import structlog
from msgspec import Struct

from eventstore.connection.clients import connect
from eventstore.connection.requirements import inspect, require_suitable
from eventstore.errors import (
    ConfigurationError,
    Halted,
    LogMissing,
    LogUnreachable,
    MusterError,
    Recovered,
    RolledBack,
    ServerUnsuitable,
)
from eventstore.keys import CATALOGUE, Keys
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from muster import __version__
from muster.process import declared_pools, log_output
from muster.process.redis_wait import retry_until_reachable
from muster.settings.addresses import redacted
from muster.settings.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from gateway.fallback import Fallback

log = structlog.get_logger("muster")

DATABASE_RETRY_SECONDS: Final = 0.5

ROLES: Final = ("projector", "supervisor", "gateway")
"""In the order in which they are started; they are stopped in another, see `muster.up`."""


class Part(Protocol):
    """A long-lived part of a process. Stopping twice does no harm."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class RoleStatus(Struct, frozen=True, omit_defaults=True):
    """What a role says to the process that started it, as one line of JSON."""

    ready: bool = False
    failed: str = ""
    url: str = ""


class Owner(Struct, frozen=True):
    """The process whose end must end us; pid 0: none."""

    pid: int = 0
    start_time: int = 0


def build(role: str, settings: Settings, owner: Owner, fallback: "Fallback | None" = None) -> Part:
    """The part that a role runs. Imports only what that role needs."""
    redis_url, prefix = settings.redis_url, settings.key_prefix
    match role:
        case "projector":
            from projector.service.options import ProjectorOptions
            from projector.service.projector import Projector

            return Projector(
                ProjectorOptions(
                    redis_url=redis_url,
                    key_prefix=prefix,
                    database_url=settings.views_url,
                    auto_recover=settings.auto_recover,
                    retention=settings.retention,
                )
            )
        case "supervisor":
            from workers.output.log_files import LogLimits
            from workers.supervisor.options import SupervisorOptions
            from workers.supervisor.supervisor import Supervisor

            return Supervisor(
                SupervisorOptions(
                    redis_url=redis_url,
                    key_prefix=prefix,
                    host=settings.host_id,
                    roles=settings.roles,
                    app_dir=str(settings.app_dir or ""),
                    log_dir=str(settings.log_dir.absolute()),
                    engine_url=settings.engine_url,
                    through_pgbouncer=bool(settings.pgbouncer_url),
                    owner_pid=owner.pid,
                    owner_start_time=owner.start_time,
                    poll_seconds=settings.poll_seconds,
                    shutdown_seconds=settings.shutdown_seconds,
                    single_process=settings.single_process,
                    fallback=fallback is not None,
                    retention=settings.retention,
                    log_limits=LogLimits(
                        age_seconds=settings.retention_logs_days * 86_400,
                        size_max=int(settings.retention_logs_megabytes * 1_000_000),
                    ),
                )
            )
        case "gateway":
            from gateway.options import GatewayOptions, Limits
            from gateway.server.listener import Gateway

            return Gateway(
                GatewayOptions(
                    host=settings.host,
                    port=settings.port,
                    redis_url=redis_url,
                    key_prefix=prefix,
                    database_url=settings.views_url,
                    roles=tuple(settings.roles),
                    api_token=settings.api_token or None,
                    hostnames=allowed_hosts(settings),
                    version=__version__,
                    mode="single-process" if settings.single_process else "processes",
                    fallback=fallback,
                    handover_failures_path=str(settings.handover_failures_file),
                    retention=settings.retention,
                    durability=settings.durability,
                    durability_replicas=settings.durability_replicas,
                    limits=Limits(
                        durability_seconds=settings.durability_timeout_seconds,
                        heartbeat_interval_min=settings.min_heartbeat_interval,
                        idle_time_min=settings.min_idle_time,
                    ),
                )
            )
        case _:
            raise ValueError(role)


async def start_role(
    role: str, settings: Settings, owner: Owner, fallback: "Fallback | None" = None
) -> Part:
    """The part that a role runs, started; one that cannot be, or is cancelled, is stopped again."""
    part = build(role, settings, owner, fallback)
    try:
        await part.start()
    except BaseException:
        await part.stop()
        raise
    return part


def allowed_hosts(settings: Settings) -> tuple[str, ...]:
    """Names that a request's `Host` may carry."""
    extra = [name.strip() for name in settings.allowed_hosts.split(",") if name.strip()]
    return tuple(sorted({*LOOPBACK, settings.host, *extra}))


async def prepare(
    settings: Settings, role: str = "up", echo: Callable[[str], None] | None = None
) -> bool:
    """Check the server and apply the declared pools; False where the log was lost.

    Only who can tell from the archive that there never was a log begins one: it waits for the
    database, and `say` tells a person so. Raises `MusterError`.
    """
    client = connect(settings.redis_url, max_connections=2)
    reader = Reader(settings.redis_url)
    try:
        require_suitable(await inspect(client))
        event_log = Log(client, Keys(settings.key_prefix), retention=settings.retention)
        catalogue = CatalogueLog(event_log, reader)
        if not (await event_log.head(CATALOGUE)).generation:
            if role == "supervisor":
                return True  # it waits for the catalogue itself
            archived = await _is_archived(settings, echo)  # or begun by another role meanwhile
            if archived and not (await event_log.head(CATALOGUE)).generation:
                log.error("log.lost", pool="", reason="Redis is empty, the archive is not")
                return False
            await catalogue.create()
        await catalogue.start()
        await declared_pools.apply(event_log, catalogue, settings.pools)
    except (Halted, LogMissing, RolledBack) as error:
        log.error("log.lost", pool=error.pool, reason=str(error))
        return False
    except (LogUnreachable, ServerUnsuitable) as error:
        # `Recovered` is not made of a text.
        kind = LogUnreachable if isinstance(error, Recovered) else type(error)
        raise kind(f"{redacted(settings.redis_url)}: {error}") from None
    finally:
        await reader.close()
        await client.aclose()
    return True


async def _is_archived(settings: Settings, echo: Callable[[str], None] | None) -> bool:
    """Whether the archive knows a log. Waits for the database: without it nobody can tell."""
    if settings.views_missing:
        return False
    from projector.queries.views import DatabaseError
    from projector.recovery.damage_scan import archive_exists

    reported = False
    while True:
        try:
            return await archive_exists(settings.views_url)
        except (DatabaseError, OSError) as error:
            if not reported:
                log.warning("role.waits_for_database", error=type(error).__name__)
                if echo is not None:
                    why = str(getattr(error, "orig", error)).partition("\n")[0]
                    echo(f"{redacted(settings.views_url)}: {why}; waiting for it")
                reported = True
            await asyncio.sleep(DATABASE_RETRY_SECONDS)


def run(role: str, settings: Settings) -> int:
    """Run one role until a signal ends it; returns the exit code."""
    file = os.environ.get("MUSTER_ROLE_LOG")
    log_output.configure(role, level=settings.log_level, file=Path(file) if file else None)
    owner = Owner(
        int(os.environ.get("MUSTER_OWNER_PID", "0")),
        int(os.environ.get("MUSTER_OWNER_START", "0")),
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
                f"{settings.sources.get('fallback', 'fallback')}: a fallback is of `muster up`"
                f" alone, which is the one process of its host; `muster {role}` has none"
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
    """Those that end a process in good order. Under `nohup` the end of a terminal does not."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def status_reporter() -> Callable[[RoleStatus], None]:
    """How to answer the process that started this one; nobody listens where none did."""
    number = os.environ.get("MUSTER_READY_FD", "")

    def report(status: RoleStatus) -> None:
        nonlocal number
        if number:
            with os.fdopen(int(number), "wb") as pipe:
                pipe.write(msgspec.json.encode(status) + b"\n")
            number = ""

    return report
