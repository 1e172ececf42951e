"""When a worker is to be replaced although nothing is wrong with it: it is too large, or too old.

It drains then, and its agents go on elsewhere. An agent that needs more than the limit from its
start on would empty one worker after the other, so a worker has a while before its size counts. The
supervisor kills one that is far above the limit at any time: that counts as the loss of a worker,
so that an agent which does it again and again is isolated.
"""

from typing import Final

from eventstore.language.pool_config import PoolConfig

SETTLED_SECONDS: Final = 60.0
"""The age from which on a worker's size counts."""
JITTER: Final = 0.1
"""The part of the greatest age by which workers differ, so that not all drain at once."""
HARD_LIMIT: Final = 1.5
"""In times of `memory_max_mb`: above it a worker is killed."""


def reason_to_drain(
    config: PoolConfig, age_seconds: float, memory_bytes: int, jitter: float
) -> str:
    """`memory`, `age`, or empty. `jitter`: from 0 to 1, the same for all of a worker's life."""
    limit_bytes = config.memory_max_mb * 1_000_000
    if limit_bytes and memory_bytes > limit_bytes and age_seconds >= SETTLED_SECONDS:
        return "memory"
    greatest = config.max_worker_age_seconds * (1 - JITTER * jitter)
    return "age" if greatest and age_seconds >= greatest else ""


def reason_to_kill(config: PoolConfig, memory_bytes: int) -> str:
    """Why a worker of this size must end at once; empty if it need not."""
    limit_mb = config.memory_max_mb * HARD_LIMIT
    if not limit_mb or memory_bytes <= limit_mb * 1_000_000:
        return ""
    return (
        f"its memory, {memory_bytes // 1_000_000} MB, was above {HARD_LIMIT:g} times memory_max_mb"
    )
