"""What a worker is configured with, and what it opens: its pool's log, and the file for what its
agents print and log.
"""

from typing import Final

from msgspec import Struct

from eventstore.connection.clients import connect
from eventstore.keys import Keys
from eventstore.language.pool_config import PoolConfig
from eventstore.log.log import Log
from eventstore.log.pool_log import PoolLog
from eventstore.retention import Retention
from eventstore.steps.step import Origin
from workers.host.processes import Process
from workers.output.capture import Capture
from workers.output.lines import Output
from workers.process.lease import LeaseOptions

CONNECTIONS: Final = 4
"""Of a worker, besides those of its inbox and its lease. Calls beyond wait for a free one."""


class HostOptions(Struct, frozen=True, kw_only=True):
    """What a supervisor passes on to its workers as it is."""

    redis_url: str
    key_prefix: str = ""
    log_dir: str = ".muster/logs"
    """Folder of this host's log files."""
    engine_url: str = ""
    """For `Context.engine()`."""
    through_pgbouncer: bool = False
    owner_pid: int = 0
    """The process that the worker must not outlive; 0: none."""
    owner_start_time: int = 0
    retention: Retention = Retention()
    fallback: bool = False
    """The log is a fallback's: fencing tokens of generation 0 are below all of the real log."""


class WorkerOptions(HostOptions, frozen=True, kw_only=True):
    pool_name: str
    worker_id: str
    host: str
    config: PoolConfig
    exits: bool = True
    """A process of its own: it may be killed when the lease is lost or an agent is stuck."""
    capture: bool = True
    """Whether what agents print and log goes to the log files."""


def lease_options(options: WorkerOptions, epoch: int) -> LeaseOptions:
    """The options of the worker's lease."""
    config = options.config
    owner = Process(options.owner_pid, options.owner_start_time)
    return LeaseOptions(
        redis_url=options.redis_url,
        key_prefix=options.key_prefix,
        pool_name=options.pool_name,
        worker_id=options.worker_id,
        epoch=epoch,
        lease_seconds=config.lease_seconds,
        renew_seconds=config.renew_seconds,
        stall_seconds=config.loop_stall_seconds,
        heartbeat_retention_ms=options.retention.heartbeats_ms,
        owner=owner if options.owner_pid else None,
        exits=options.exits,
    )


def open_pool_log(options: WorkerOptions) -> PoolLog:
    """The log of the worker's pool, written as this worker. Its client is to be closed."""
    client, keys = connect(options.redis_url, max_connections=CONNECTIONS), Keys(options.key_prefix)
    log = Log(client, keys, retention=options.retention, survives_recovery=False)
    origin = Origin(actor=f"worker:{options.worker_id}")
    return PoolLog(log, options.pool_name, origin)


def start_capture(options: WorkerOptions) -> Output | None:
    """Write what agents print and log to the worker's file; None where that is off."""
    if not options.capture:
        return None
    output = Output(options.log_dir, options.pool_name, options.worker_id)
    Capture.start(output if options.exits else None)
    return output


def stop_capture(output: Output | None) -> None:
    if output is not None:
        Capture.stop()
        output.close()
