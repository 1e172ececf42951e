"""How much of its scarcest resource a worker uses, of its own or its host's."""

from eventstore.language.pool_config import PoolConfig
from eventstore.language.workers import Worker, WorkerStatus
from eventstore.log.survey import ObservedWorker, Survey
from workers.host.capacity import host_pressure
from workers.host.processes import ProcessorUse
from workers.supervisor.pressures import Usage, pressures

WORKER = Worker(worker_id="w1", pool_name="p", host="h1", max_agents=10, status=WorkerStatus.ACTIVE)
SURVEY = Survey(
    ts=1, waiting=0, free=10, restarting=0, live=0, scaling=0, closed="", due=(), timeouts=(),
    workers=(ObservedWorker(WORKER, 0, 0, 0),),
)  # fmt: skip


def pressure(usage: Usage, host: float = 0.0, **settings: int) -> float:
    config = PoolConfig(**settings)  # type: ignore[arg-type]
    return pressures(SURVEY, {"w1": usage}, {"h1": host}, config)["w1"]


def test_the_scarcest_resource_counts() -> None:
    assert pressure(Usage(cpu=0.3, loop_lag_ms=10.0)) == 0.3
    assert pressure(Usage(cpu=0.3, loop_lag_ms=80.0)) == 0.8
    assert pressure(Usage(memory_bytes=150_000_000)) == 0.0, "there is no limit"
    assert pressure(Usage(memory_bytes=150_000_000), memory_max_mb=200) == 0.75
    assert pressure(Usage(cpu=0.3), host=1.4) == 1.4


def test_a_worker_that_has_not_reported_has_the_pressure_of_its_host() -> None:
    assert pressures(SURVEY, {}, {"h1": 0.2}, PoolConfig()) == {"w1": 0.2}
    assert pressures(SURVEY, {}, {}, PoolConfig()) == {"w1": 0.0}


def test_a_process_that_computes_uses_its_processor() -> None:
    use = ProcessorUse()
    sum(range(3_000_000))
    assert 0.0 < use.since_last() < 1.5
    assert use.since_last() < 1.5
    assert host_pressure() >= 0.0
