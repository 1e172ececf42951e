"""The roles as parts of a process: the composition root of projector, supervisor and gateway.

Each is a part with `start` and `stop`, built from the settings. A process of its own reports to its
parent that its role is ready, and stops on a signal.
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import uvloop
from msgspec import Struct

from eventstore.errors import ConfigurationError, MusterError
from eventstore.language.durability import Level
from eventstore.telemetry.requirements import require_usable
from muster import __version__
from muster.process import log_output
from muster.process.log_preparation import prepare
from muster.process.part import Part
from muster.process.redis_wait import retry_until_reachable
from muster.settings.environment import for_role, role_environment
from muster.settings.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from gateway.fallback import Fallback
    from muster.process.metrics_endpoint import Metrics

log = structlog.get_logger("muster")

ROLES: Final = ("projector", "supervisor", "gateway")
"""In the order in which they are started; they are stopped in another, see `muster.up`."""
GARBAGE_MIN: Final = 10_000
"""So many new objects start a collection: a request or a batch makes hundreds without cycles."""


class RoleStatus(Struct, frozen=True, omit_defaults=True):
    """What a role reports to the process that started it, as one line of JSON."""

    ready: bool = False
    failed: str = ""
    url: str = ""


class Owner(Struct, frozen=True):
    """The process with which this one ends; pid 0: none."""

    pid: int = 0
    start_time: int = 0


def build(role: str, settings: Settings, owner: Owner, fallback: "Fallback | None" = None) -> Part:
    """The part that a role runs. Imports only what that role needs."""
    if role == "projector":
        return _projector(settings)
    if role == "supervisor":
        return _supervisor(settings, owner, is_fallback=fallback is not None)
    assert role == "gateway", role
    return _gateway(settings, fallback)


def _projector(settings: Settings) -> Part:
    from projector.service.options import ProjectorOptions
    from projector.service.projector import Projector

    projector = Projector(
        ProjectorOptions(
            redis_url=settings.redis_url,
            key_prefix=settings.key_prefix,
            database_url=settings.views_url,
            auto_recover=settings.auto_recover,
            otel=settings.otel,
            retention=settings.retention,
            archive_dir=settings.archive_dir,
            metrics=settings.metrics_port > 0 or settings.otel,
        )
    )
    return _measured("projector", projector, projector.metrics, settings)


def _supervisor(settings: Settings, owner: Owner, *, is_fallback: bool) -> Part:
    from workers.host.capacity import HostLimits
    from workers.output.log_files import LogLimits
    from workers.supervisor.options import SupervisorOptions
    from workers.supervisor.supervisor import Supervisor

    supervisor = Supervisor(
        SupervisorOptions(
            redis_url=settings.redis_url,
            key_prefix=settings.key_prefix,
            host=settings.host_id,
            roles=settings.roles,
            deferred_roles=settings.deferred_roles,
            app_dir=str(settings.app_dir or ""),
            import_timeout_seconds=settings.import_timeout_seconds,
            log_dir=str(settings.log_dir.absolute()),
            log_level=settings.log_level,
            engine_url=settings.engine_url,
            durability=Level(settings.durability),
            durability_replicas=settings.durability_replicas,
            durability_timeout_seconds=settings.durability_timeout_seconds,
            owner_pid=owner.pid,
            owner_start_time=owner.start_time,
            poll_seconds=settings.poll_seconds,
            shutdown_seconds=settings.shutdown_seconds,
            single_process=settings.single_process,
            reload=settings.reload and owner.pid > 0,
            fallback=is_fallback,
            otel=settings.otel,
            retention=settings.retention,
            limits=HostLimits(
                settings.host_workers_max,
                settings.host_launches_max,
                settings.host_memory_min_mb,
                settings.host_load_max,
            ),
            log_limits=LogLimits(
                age_seconds=settings.retention_logs_days * 86_400,
                size_max=int(settings.retention_logs_megabytes * 1_000_000),
            ),
            metrics=settings.metrics_port > 0 or settings.otel,
        )
    )
    return _measured("supervisor", supervisor, supervisor.metrics, settings)


def _measured(role: str, part: Part, metrics: "Metrics | None", settings: Settings) -> Part:
    """With a port for its metrics, and with its export, as far as they are wanted."""
    if metrics is not None and settings.metrics_port:
        from muster.process.metrics_endpoint import MeasuredPart

        part = MeasuredPart(role, part, metrics, settings)
    if metrics is not None and settings.otel:
        part = _exported(role, part, metrics, measures_lag=not settings.metrics_port)
    return part


def _exported(role: str, part: Part, metrics: "Metrics", *, measures_lag: bool) -> Part:
    from muster.process.exported_part import ExportedPart

    return ExportedPart(role, part, metrics, measures_lag=measures_lag)


def _gateway(settings: Settings, fallback: "Fallback | None") -> Part:
    from gateway.options import GatewayOptions, Limits, Webhook
    from gateway.server.listener import Gateway

    extra = [name.strip() for name in settings.allowed_hosts.split(",") if name.strip()]
    gateway = Gateway(
        GatewayOptions(
            host=settings.host,
            port=settings.port,
            redis_url=settings.redis_url,
            key_prefix=settings.key_prefix,
            database_url=settings.views_url,
            roles=tuple(settings.roles),
            role_defaults=settings.role_defaults,
            api_token=settings.api_token or None,
            hostnames=tuple(sorted({*LOOPBACK, settings.host, *extra})),
            access_log=settings.access_log,
            tls_cert=str(settings.tls_cert or ""),
            tls_key=str(settings.tls_key or ""),
            version=__version__,
            mode="single-process" if settings.single_process else "processes",
            fallback=fallback,
            otel=settings.otel,
            handover_failures_path=str(settings.handover_failures_file),
            retention=settings.retention,
            durability=settings.durability,
            durability_replicas=settings.durability_replicas,
            webhooks=tuple(
                Webhook(
                    name=name,
                    url=one.url,
                    secrets=one.secrets,
                    severity=one.severity,
                    pools=one.pools,
                )
                for name, one in settings.webhooks.items()
            ),
            webhook_private_addresses=settings.webhook_private_addresses,
            limits=Limits(
                durability_seconds=settings.durability_timeout_seconds,
                heartbeat_interval_min=settings.min_heartbeat_interval,
                idle_time_min=settings.min_idle_time,
            ),
        )
    )
    return _exported("gateway", gateway, gateway, measures_lag=False) if settings.otel else gateway


async def start_role(
    role: str, settings: Settings, owner: Owner, fallback: "Fallback | None" = None
) -> Part:
    """The part that a role runs, started; one that cannot be, or is cancelled, is stopped again."""
    if settings.otel:
        require_usable(settings.source("otel"))
    part = build(role, settings, owner, fallback)
    try:
        await part.start()
    except BaseException:
        await part.stop()
        raise
    return part


def run(role: str, settings: Settings) -> int:
    """Run one role until a signal ends it; returns the exit code."""
    kept = role_environment(role, settings, os.environ)
    for name in os.environ.keys() - kept.keys():  # agents would inherit it
        del os.environ[name]
    settings = for_role(role, settings)
    file = os.environ.get("MUSTER_ROLE_LOG")
    log_output.configure(role, level=settings.log_level, file=Path(file) if file else None)
    owner = Owner(
        int(os.environ.get("MUSTER_OWNER_PID", "0")), int(os.environ.get("MUSTER_OWNER_START", "0"))
    )
    try:
        if not settings.redis_url:
            raise ConfigurationError(
                "it needs a Redis: set MUSTER_REDIS_URL (or REDIS_URL), or use"
                " `muster up`, which brings its own"
            )
        if settings.fallback != "none":
            raise ConfigurationError(
                f"{settings.source('fallback')}: only `muster up` has a fallback,"
                f" `muster {role}` has none"
            )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(role, settings, owner))
    except MusterError as error:
        _report(RoleStatus(failed=str(error)))
        print(f"muster {role}: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(role: str, settings: Settings, owner: Owner) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, stopping.set)
    started: list[Part] = []

    async def start() -> None:
        await prepare(settings, role)
        started.append(await start_role(role, settings, owner))

    if not await retry_until_reachable(start, stopping, lambda _: None):
        return
    [part] = started
    try:
        gc.freeze()  # what lasts need not be looked through again and again
        gc.set_threshold(GARBAGE_MIN)
        _report(RoleStatus(ready=True, url=getattr(part, "url", "")))
        log.info("role.ready", pid=os.getpid(), url=getattr(part, "url", None))
        await stopping.wait()
    finally:
        await part.stop()


def stop_signals() -> Sequence[signal.Signals]:
    """Those that stop a process in order. Under `nohup` the end of a terminal does not."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def _report(status: RoleStatus) -> None:
    """Once, to the process that started this one, if one did."""
    if number := os.environ.pop("MUSTER_READY_FD", ""):
        with os.fdopen(int(number), "wb") as pipe:
            pipe.write(msgspec.json.encode(status) + b"\n")
