"""What a supervisor is configured with, and what it passes on to its workers."""

from msgspec import Struct
from msgspec.structs import replace

from eventstore.language.catalogue import Pool
from eventstore.retention import Retention
from workers.output.log_files import LogLimits
from workers.process.options import WorkerOptions

SHUTDOWN_SECONDS = 25.0


class SupervisorOptions(Struct, frozen=True, kw_only=True):
    """What a supervisor needs to know. `roles` are role names and the paths of their classes."""

    redis_url: str
    key_prefix: str = ""
    host: str = ""
    roles: dict[str, str] = {}
    app_dir: str = ""
    log_dir: str = ".muster/logs"
    engine_url: str = ""
    through_pgbouncer: bool = False
    owner_pid: int = 0
    owner_start_time: int = 0
    poll_seconds: float = 1.0
    shutdown_seconds: float = SHUTDOWN_SECONDS
    single_process: bool = False
    fallback: bool = False
    """Whether the log is a fallback's: see `WorkerOptions`."""
    retention: Retention = Retention()
    log_limits: LogLimits = LogLimits()
    """Of the log files of workers that are gone."""


def worker_options(
    options: SupervisorOptions, host: str, pool: Pool, worker_id: str
) -> WorkerOptions:
    return WorkerOptions(
        redis_url=options.redis_url,
        key_prefix=options.key_prefix,
        pool_name=pool.pool_name,
        worker_id=worker_id,
        host=host,
        config=pool.config,
        log_dir=options.log_dir,
        engine_url=options.engine_url,
        through_pgbouncer=options.through_pgbouncer,
        owner_pid=options.owner_pid,
        owner_start_time=options.owner_start_time,
        fallback=options.fallback,
        retention=options.retention,
    )


def limit_to_one_worker(pool: Pool) -> Pool:
    """A pool as a single process can run it."""
    config = replace(
        pool.config,
        max_workers=1,
        min_workers=min(pool.config.min_workers, 1),
        suspicion_window_seconds=0.0,  # there is no second process to isolate an agent in
    )
    return replace(pool, config=config)
