"""The roles as parts of a process: the composition root of projector, supervisor and gateway.

Each is a part with `start` and `stop`, built from the settings.
"""

from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from muster import __version__
from muster.settings.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from gateway.fallback import Fallback

ROLES: Final = ("projector", "supervisor", "gateway")
"""In the order in which they are started; they are stopped in another, see `muster.up`."""


class Part(Protocol):
    """A long-lived part of a process. Stopping twice does no harm."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


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
    match role:
        case "projector":
            return _projector(settings)
        case "supervisor":
            return _supervisor(settings, owner, is_fallback=fallback is not None)
        case "gateway":
            return _gateway(settings, fallback)
        case _:
            raise ValueError(role)


def _projector(settings: Settings) -> Part:
    from projector.service.options import ProjectorOptions
    from projector.service.projector import Projector

    return Projector(
        ProjectorOptions(
            redis_url=settings.redis_url,
            key_prefix=settings.key_prefix,
            database_url=settings.views_url,
            auto_recover=settings.auto_recover,
            retention=settings.retention,
        )
    )


def _supervisor(settings: Settings, owner: Owner, *, is_fallback: bool) -> Part:
    from workers.output.log_files import LogLimits
    from workers.supervisor.supervisor import Supervisor, SupervisorOptions

    return Supervisor(
        SupervisorOptions(
            redis_url=settings.redis_url,
            key_prefix=settings.key_prefix,
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
            fallback=is_fallback,
            retention=settings.retention,
            log_limits=LogLimits(
                age_seconds=settings.retention_logs_days * 86_400,
                size_max=int(settings.retention_logs_megabytes * 1_000_000),
            ),
        )
    )


def _gateway(settings: Settings, fallback: "Fallback | None") -> Part:
    from gateway.options import GatewayOptions, Limits
    from gateway.server.listener import Gateway

    return Gateway(
        GatewayOptions(
            host=settings.host,
            port=settings.port,
            redis_url=settings.redis_url,
            key_prefix=settings.key_prefix,
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
