"""What a gateway does in the background does not end with a defect."""

import asyncio
import time

import pytest

from eventstore.metrics import loop_lag
from eventstore.metrics.loop_lag import measure_lag
from gateway.backend import redis_health
from gateway.backend.redis_health import RedisHealth
from gateway.server import listener
from gateway.server.listener import retry_on_error
from tests.waiting import until


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "RETRY_SECONDS", (0.0, 0.0))


async def test_work_is_repeated_after_a_defect_and_done_once_if_it_succeeds() -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise RuntimeError("a defect")

    await retry_on_error("part", work)
    assert runs == 3


async def test_work_that_is_cancelled_ends() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(retry_on_error("part", work))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_a_gateway_notices_that_redis_is_reachable_after_a_defect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else it would refuse every command for as long as it runs."""
    monkeypatch.setattr(redis_health, "UNREACHABLE_PROBE_INTERVAL_SECONDS", 0.0)
    answers = [False]
    changes = []

    async def probe(_: RedisHealth) -> bool:
        return answers[0]

    async def changed(unreachable: bool) -> None:
        changes.append(unreachable)
        if len(changes) == 1:
            raise RuntimeError("a defect")

    monkeypatch.setattr(RedisHealth, "_probe", probe)
    watching = RedisHealth("redis://localhost", changed)
    task = asyncio.create_task(retry_on_error("part", watching.watch))
    await until(lambda: watching.unreachable)
    answers[0] = True
    await until(lambda: not watching.unreachable)
    task.cancel()
    await asyncio.wait({task})
    await watching.close()
    assert changes == [True, False]


async def test_redis_is_probed_less_often_while_no_client_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And at once when a request comes."""
    monkeypatch.setattr(redis_health, "PROBE_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(redis_health, "REST_PROBE_INTERVAL_SECONDS", 1e6)
    probes, awaited = [], [True]

    async def probe(health: RedisHealth) -> bool:
        probes.append(health)
        return True

    async def changed(_: bool) -> None:
        raise AssertionError

    monkeypatch.setattr(RedisHealth, "_probe", probe)
    watching = RedisHealth("redis://localhost", changed, lambda: awaited[0])
    task = asyncio.create_task(watching.watch())
    await until(lambda: len(probes) > 5)
    awaited[0] = False
    await until(lambda: watching._resting)
    count = len(probes)
    watching.note_request()
    await until(lambda: len(probes) == count + 2)  # at once, and an interval later
    await until(lambda: watching._resting)
    assert len(probes) == count + 2
    task.cancel()
    await asyncio.wait({task})
    await watching.close()


async def test_a_process_at_rest_is_woken_less_often_to_measure_its_lag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    used = iter([0.0, 0.0, 1e9, 1e9])

    async def sleep(_: float) -> None:
        if len(pauses) == 3:
            raise asyncio.CancelledError

    def pause(seconds: float) -> float:
        pauses.append(seconds)
        return 0.0

    monkeypatch.setattr(loop_lag, "until_tick", pause)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(time, "process_time", lambda: next(used))
    with pytest.raises(asyncio.CancelledError):
        await measure_lag(lambda lag: None)
    assert pauses == [1.0, 5.0, 1.0]
