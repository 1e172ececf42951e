"""What a supervisor is configured with, and what it passes on to its workers."""

from msgspec import field
from msgspec.structs import replace

from eventstore.language.catalogue import Pool
from workers.host.capacity import HostLimits
from workers.output.log_files import LogLimits
from workers.process.options import HostOptions, WorkerOptions

SHUTDOWN_SECONDS = 25.0


class SupervisorOptions(HostOptions, frozen=True, kw_only=True):
    """What a supervisor needs to know. `roles` are role names and the paths of their classes."""

    host: str = ""
    roles: dict[str, str] = field(default_factory=dict)
    deferred_roles: tuple[str, ...] = ()
    """Those that each worker imports itself."""
    poll_seconds: float = 2.0
    shutdown_seconds: float = SHUTDOWN_SECONDS
    single_process: bool = False
    metrics: bool = False
    """Whether it measures, and its workers report what they measure."""
    reload: bool = False
    """Watch `app_dir`, and replace the workers where its code has changed."""
    limits: HostLimits = HostLimits()
    log_limits: LogLimits = LogLimits()
    """Of the log files of workers that are gone."""


def worker_options(
    options: SupervisorOptions, host: str, pool: Pool, worker_id: str
) -> WorkerOptions:
    passed_on = {name: getattr(options, name) for name in HostOptions.__struct_fields__}
    return WorkerOptions(
        **passed_on,
        pool_name=pool.pool_name,
        worker_id=worker_id,
        host=host,
        role=pool.role_type,
        role_path=options.roles.get(pool.role_type, ""),
        config=pool.config,
        config_version=":".join(map(str, pool.config_version)),
    )


def limit_to_one_worker(pool: Pool) -> Pool:
    """A pool as a single process can run it."""
    config = replace(
        pool.config,
        max_workers=1,
        min_workers=min(pool.config.min_workers, 1),
        suspicion_window_seconds=0.0,  # there is no second process to isolate an agent in
        memory_max_mb=0,  # nor one whose memory a replacement would free
    )
    return replace(pool, config=config)
