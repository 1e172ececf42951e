"""What a host's supervisor does besides its pools: old log files, and what dead workers left."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from workers.launch import leftovers
from workers.launch.pool_processes import HostProcesses
from workers.output.log_files import remove_old_files
from workers.supervisor.options import SupervisorOptions
from workers.supervisor.pool_supervisor import PoolSupervisor

LEFTOVERS_SECONDS: Final = 0.2
"""Between searches for what dead workers have left; a zygote comes first."""
LEFTOVERS_SEARCHES: Final = 25
"""At most, after the end of a worker: what is killed may need long to end."""
LOG_CLEANUP_SECONDS: Final = 600.0
"""How often old log files are removed."""

log = structlog.get_logger("muster.supervisor")


async def clean_up_logs(options: SupervisorOptions) -> None:
    """Remove old log files of workers that are gone, now and then. Returns only by an error."""
    folder, limits = Path(options.log_dir), options.log_limits
    while True:
        removed = await asyncio.to_thread(remove_old_files, folder, limits, time.time())
        if removed:
            log.info("logs.removed", files=len(removed))
        await asyncio.sleep(LOG_CLEANUP_SECONDS)


async def end_leftovers(
    scope: str,
    processes: HostProcesses,
    pools: Mapping[str, PoolSupervisor],
    worker_ended: asyncio.Event,
) -> None:
    """End what dead workers have left: those of a supervisor before, then of each that ends.

    Which workers run is known once the pools are reconciled. Returns only by an error.
    """
    while True:
        for pool in tuple(pools.values()):
            await pool.reconciled.wait()
        worker_ended.clear()
        for _ in range(LEFTOVERS_SEARCHES):
            killed = leftovers.kill_leftovers(scope, processes.pids)
            if not killed:
                break
            log.warning("worker.leftovers_killed", count=len(killed), commands=sorted(killed))
            await asyncio.sleep(LEFTOVERS_SECONDS)
        await worker_ended.wait()
        await asyncio.sleep(LEFTOVERS_SECONDS)
