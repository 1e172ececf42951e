"""How much of its scarcest resource each worker uses, for the strategy `resource`.

A worker reports processor time, memory and the lag of its event loop with each renewal, a host how
much of its processors and memory is in use. 0 is nothing, 1 all there is, and more is possible.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from eventstore.connection.calls import ask
from eventstore.language.pool_config import PoolConfig
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import fields_of
from eventstore.log.survey import Survey

FULL_LAG_MS: Final = 100.0
"""An event loop that is so late has no time left for others."""


class Usage(Struct, frozen=True):
    """Of one worker; of a `worker.heartbeat` what counts here."""

    cpu: float = 0.0
    """Processors, averaged since the heartbeat before: one event loop uses 1 at most."""
    loop_lag_ms: float = 0.0
    memory_bytes: int = 0

    def pressure(self, config: PoolConfig) -> float:
        memory = self.memory_bytes / (config.memory_max_mb * 1e6) if config.memory_max_mb else 0.0
        return max(self.cpu, self.loop_lag_ms / FULL_LAG_MS, memory)


async def worker_usage(pool_log: PoolLog, survey: Survey) -> dict[str, Usage]:
    """The newest of each worker."""
    count = 2 * len(survey.workers)
    key = pool_log.log.keys.pool(pool_log.pool, "heartbeats")
    command = ("XREVRANGE", key, "+", "-", "COUNT", str(count))
    entries = await ask(pool_log.log.client, *command, doing="heartbeats") if count else ()
    found: dict[str, Usage] = {}
    for _, flat in entries:
        fields = fields_of(flat)
        worker_id = fields.get("subject", "")
        if worker_id not in found:
            try:
                found[worker_id] = msgspec.json.decode(fields.get("data", ""), type=Usage)
            except msgspec.MsgspecError:
                continue
    return found


def pressures(
    survey: Survey,
    usage: Mapping[str, Usage],
    of_hosts: Mapping[str, float],
    config: PoolConfig,
) -> dict[str, float]:
    """By worker: that of its host counts as its own."""
    nothing = Usage()
    return {
        worker.worker_id: max(
            usage.get(worker.worker_id, nothing).pressure(config), of_hosts.get(worker.host, 0.0)
        )
        for worker in (observed.worker for observed in survey.workers)
    }
