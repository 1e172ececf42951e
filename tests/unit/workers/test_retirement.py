"""When a worker is replaced because of its size or age."""

import pytest

from eventstore.language.catalogue import Pool
from eventstore.language.pool_config import PoolConfig
from workers.process.retirement import reason_to_drain, reason_to_kill
from workers.supervisor.options import limit_to_one_worker

MB = 1_000_000


@pytest.mark.parametrize(
    ("memory_mb", "age", "jitter", "reason"),
    [
        (100, 61, 0.0, ""),
        (101, 59, 0.0, ""),  # its agents need so much from their start on
        (101, 61, 0.0, "memory"),
        (50, 999, 0.0, ""),
        (50, 1000, 0.0, "age"),
        (50, 901, 1.0, "age"),
        (50, 899, 1.0, ""),
    ],
)
def test_a_worker_drains_above_its_limits(
    memory_mb: int, age: float, jitter: float, reason: str
) -> None:
    config = PoolConfig(memory_max_mb=100, max_worker_age_seconds=1000)
    assert reason_to_drain(config, age, memory_mb * MB, jitter) == reason


def test_without_limits_no_worker_is_replaced() -> None:
    huge = 10**12
    assert reason_to_drain(PoolConfig(), 1e9, huge, 1.0) == ""
    assert reason_to_kill(PoolConfig(), huge) == ""


def test_a_worker_far_above_its_memory_is_killed() -> None:
    config = PoolConfig(memory_max_mb=100)
    assert reason_to_kill(config, 150 * MB) == ""
    assert reason_to_kill(config, 151 * MB) == (
        "its memory, 151 MB, was above 1.5 times memory_max_mb"
    )


def test_a_single_process_is_not_replaced_for_its_memory() -> None:
    """It would be the same process again, once a minute."""
    pool = Pool(pool_name="p", role_type="r", config=PoolConfig(memory_max_mb=100))
    assert limit_to_one_worker(pool).config.memory_max_mb == 0
