"""What a worker opens: its pool's log, and the file for what its agents print and log."""

from typing import Final

from eventstore.connection.clients import connect
from eventstore.keys import Keys
from eventstore.log.log import Log
from eventstore.log.pool_log import PoolLog
from eventstore.steps.step import Origin
from workers.output.capture import Capture
from workers.output.lines import Output
from workers.process.options import WorkerOptions

CONNECTIONS: Final = 4
"""Of a worker, besides those of its inbox and its lease. Calls beyond wait for a free one."""


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
