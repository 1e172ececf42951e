"""What a worker does about its process.

At its start it protects what its agents share, and what they fork. With each renewal it collects
the exit codes of orphans, and looks whether the process is to be replaced.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import Callable
from typing import Final

from eventstore.connection.calls import UNREACHABLE
from eventstore.errors import LogError
from eventstore.language.pool_config import PoolConfig
from eventstore.log.pool_log import PoolLog
from eventstore.redis_errors import RedisError
from workers.host.processes import boot_seconds, resident_bytes
from workers.output.capture import Capture
from workers.output.descriptors import StandardPipes
from workers.output.lines import Output
from workers.process import forks
from workers.process.retirement import reason_to_drain
from workers.runtime.child_records import track
from workers.runtime.children import collect_adopted
from workers.runtime.process_state import ProcessState

STATE_RENEWALS: Final = 5
"""So rarely the state of the process is looked at: what code of Python changes is seen at once."""
REPLACED_SECONDS: Final = 86_400
"""Of the workers of a pool one is replaced in this time for each kind of damage."""


class Upkeep:
    """Of one worker's process. `drain` is called with the reason for which it has to end."""

    def __init__(self, pool_log: PoolLog, worker_id: str, drain: Callable[[str], None]) -> None:
        self._pool_log, self._worker_id, self._drain = pool_log, worker_id, drain
        self._started_at, self._jitter = boot_seconds(), random.random()
        self._renewals = 0
        self._undo = contextlib.ExitStack()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, output: Output | None, pipes: StandardPipes | None, *, shared: bool) -> None:
        """Before any agent's code runs; called in a task of the loop. For `Capture.start`, too."""
        track()
        loop = asyncio.get_running_loop()
        if output is not None:
            self._undo.callback(output.close)
            Capture.start(output, pipes, shared=shared)
            self._undo.callback(Capture.stop)
        self._undo.callback(forks.protect(loop, output))

    def protect_state(self) -> None:
        """What is changed from now on is put back: the role is set up."""
        self._undo.callback(ProcessState.start(self._on_damage))

    def stop(self) -> None:
        """Undo all of that, and close the output. A second call does nothing."""
        self._undo.close()

    def check(self, config: PoolConfig) -> str:
        """To be called with each renewal; returns why the worker is to drain, mostly empty."""
        Capture.check()
        collect_adopted()
        self._renewals += 1
        if ProcessState.current is not None and self._renewals % STATE_RENEWALS == 0:
            ProcessState.current.check()
        age_seconds, memory_bytes = boot_seconds() - self._started_at, resident_bytes(os.getpid())
        return reason_to_drain(config, age_seconds, memory_bytes, self._jitter)

    def _on_damage(self, kind: str) -> None:
        task = asyncio.get_running_loop().create_task(self._replace(kind))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, kind: str) -> None:
        """Another process has what cannot be put back. Where that was tried before: an alert."""
        log, pool = self._pool_log.log, self._pool_log.pool
        key = log.keys.pool(pool, f"replaced:{kind.replace(' ', '-')}")
        lasting = ("EX", str(REPLACED_SECONDS))
        with contextlib.suppress(*UNREACHABLE, RedisError, LogError):
            if await log.client.execute_command("SET", key, "1", "NX", *lasting):
                self._drain("process-state")
            else:
                what = f"{kind} of worker {self._worker_id}"
                damaged = log.keys.pool(pool, "damaged")
                await log.client.execute_command("SET", damaged, what, *lasting)
