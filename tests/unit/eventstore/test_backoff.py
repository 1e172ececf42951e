"""The pauses of a loop that fails, and what it logs of an outage."""

from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from eventstore import errors
from eventstore.connection import backoff
from eventstore.connection.backoff import Backoff, retry
from eventstore.errors import LogError, LogUnreachable
from eventstore.redis_errors import error_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, as a list of one; pauses have no jitter."""
    now = [1000.0]
    monkeypatch.setattr(backoff, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(backoff, "random", SimpleNamespace(uniform=lambda _low, high: high))
    return now


def test_each_pause_is_twice_as_long_up_to_the_maximum(clock: list[float]) -> None:
    delays = Backoff(seconds=(0.1, 1.0))
    assert [round(delays.next_delay(), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert delays.reset()
    assert delays.next_delay() == 0.1


def test_pauses_are_jittered() -> None:
    delays = [Backoff(seconds=(1.0, 8.0)).next_delay() for _ in range(100)]
    assert len(set(delays)) > 50
    assert all(0.5 <= delay <= 1.0 for delay in delays)


def test_after_a_good_while_the_shortest_pause_is_used_again(
    clock: list[float],
) -> None:
    delays = Backoff(seconds=(0.1, 10.0), reset_after_seconds=5.0)
    clock[0] += delays.next_delay() + 4.9
    assert delays.next_delay() == 0.2
    clock[0] += 0.2 + 5.1
    assert delays.next_delay() == 0.1


def test_an_outage_has_one_line_in_the_log_and_its_end_another(clock: list[float]) -> None:
    delays = Backoff("claim", worker_id="w")
    with capture_logs() as lines:
        assert not delays.reset()
        for _ in range(3):
            clock[0] += delays.next_delay(ConnectionError("refused"))
        assert delays.reset()
        assert not delays.reset()
        delays.next_delay(ConnectionError("again"))
    assert [(line["event"], line["during"], line.get("error")) for line in lines] == [
        ("redis.unreachable", "claim", "refused"),
        ("redis.reachable", "claim", None),
        ("redis.unreachable", "claim", "again"),
    ]


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (LogUnreachable("gone"), "redis.unreachable"),
        (ConnectionError("refused"), "redis.unreachable"),
        (error_of("MISCONF no space left on device"), "redis.unreachable"),
        (error_of("NOPERM this user has no permissions"), "redis.refuses"),
        (errors.LogMissing("p"), "log.missing"),
        (errors.Halted("p", "it lost writes"), "log.halted"),
        (errors.RolledBack("p", (1, 2), (1, 1)), "log.rolled_back"),
        (errors.MemoryExhausted(), "redis.memory_exhausted"),
        (errors.NotEnoughReplicas(), "redis.not_enough_replicas"),
        (errors.Unreadable("agent", "a", "damaged"), "log.unreadable"),
    ],
)
def test_a_failure_is_logged_by_its_own_name(error: Exception, name: str) -> None:
    delays = Backoff("claim")
    with capture_logs() as lines:
        delays.next_delay(error)
        delays.next_delay(error)
    assert [line["event"] for line in lines] == [name]


def test_an_outage_of_years_does_not_overflow(clock: list[float]) -> None:
    delays = Backoff(seconds=(0.1, 5.0))
    assert [delays.next_delay() for _ in range(5000)][-1] == 5.0


async def test_work_is_retried_until_the_log_can_be_written() -> None:
    attempts: list[LogError | None] = [LogUnreachable("gone"), LogError("refused"), None]

    async def work() -> str:
        if error := attempts.pop(0):
            raise error
        return "done"

    with capture_logs() as lines:
        assert await retry(Backoff("settle", seconds=(0.0, 0.0)), work) == "done"
    assert [line["event"] for line in lines] == [
        "redis.unreachable",
        "redis.refuses",
        "log.usable",
    ]
    with pytest.raises(ValueError, match="a defect"):
        await retry(Backoff(), _fail)


async def _fail() -> None:
    raise ValueError("a defect")
