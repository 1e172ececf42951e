"""What alerts need of the views is read when something changed, and otherwise now and then."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from eventstore.log.notices import Notice
from gateway.alerts.facts import ViewFacts
from gateway.backend.backend import Backend
from gateway.following.subscriptions import ObservedHead
from gateway.health import recent_facts
from gateway.health.recent_facts import RecentFacts, ViewAnswers
from gateway.options import GatewayOptions


def at(seq: int = 5, head: int = 5, status: str = "ok") -> ViewAnswers:
    log = ViewFacts(pool="p", seq=seq, head=head, lag_seconds=0.0, status=status)
    return ViewAnswers(logs=[log])


class Reads:
    """A gateway of which only the views are read, and how often they were."""

    def __init__(self) -> None:
        self.backend = Backend(
            GatewayOptions(redis_url="redis://localhost", database_url="sqlite:///v.db", roles=())
        )
        self.backend.tail.heads["p"] = ObservedHead(5)
        self.answers = at()
        self.count = 0

    async def read(self, _: Backend, pools: Sequence[str] | None) -> ViewAnswers:
        self.count += 1
        return self.answers

    async def ask(self, facts: RecentFacts, *seen: object) -> int:
        """How often they have been read, after another round."""
        assert await facts.views(self.backend, None, *seen) == self.answers
        return self.count


@pytest.fixture
async def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    found = Reads()
    monkeypatch.setattr(recent_facts, "_read_views", found.read)
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only item."""
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("gateway.health.recent_facts.time", clock)
    return now


async def at_rest(reads: Reads, clock: list[float], *seen: object) -> RecentFacts:
    """Facts for a minute, of which nothing has changed for long enough; how often they were read
    is counted from now."""
    facts = RecentFacts(60.0)
    await reads.ask(facts, *seen)
    clock[0] += 15.0
    await reads.ask(facts, *seen)
    reads.count = 0
    return facts


async def test_views_at_rest_are_read_once_a_minute(reads: Reads, clock: list[float]) -> None:
    facts = await at_rest(reads, clock)
    for count, seconds in ((0, 5.0), (0, 39.0), (1, 2.0), (1, 59.0), (2, 2.0)):
        clock[0] += seconds
        assert await reads.ask(facts) == count


async def test_for_one_answer_they_are_read(reads: Reads) -> None:
    assert [await reads.ask(RecentFacts(0.0)) for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    "answers",
    [
        at(seq=4),
        at(status="stopped"),
        ViewAnswers("connection refused"),
        ViewAnswers(pools={"p": {"lost_states": ()}}),
    ],
)
async def test_views_that_an_alert_may_be_about_are_read_each_time(
    reads: Reads, clock: list[float], answers: ViewAnswers
) -> None:
    reads.answers = answers
    facts = await at_rest(reads, clock)
    assert [await reads.ask(facts) for _ in range(3)] == [1, 2, 3]


def move(backend: Backend) -> None:
    backend.tail.heads["p"].seq = 6


def add_pool(backend: Backend) -> None:
    backend.tail.heads["q"] = ObservedHead(1)


def fail(backend: Backend) -> None:
    backend.views_failures += 1


def lose(backend: Backend) -> None:
    backend.views_error = "connection refused"


@pytest.mark.parametrize("change", [move, add_pool, fail, lose])
async def test_they_are_read_for_a_while_after_something_happened(
    reads: Reads, clock: list[float], change: Callable[[Backend], None]
) -> None:
    """What the projector does about it comes a little later."""
    facts = await at_rest(reads, clock)
    change(reads.backend)
    for count, seconds in ((1, 0.0), (2, 5.0), (3, 9.0), (3, 5.0), (3, 40.0), (4, 16.0)):
        clock[0] += seconds
        assert await reads.ask(facts) == count


async def test_they_are_read_when_redis_or_the_projector_says_something_else(
    reads: Reads, clock: list[float]
) -> None:
    facts = await at_rest(reads, clock, {"p": {"halted": ""}}, [])
    assert await reads.ask(facts, {"p": {"halted": ""}}, []) == 0
    assert await reads.ask(facts, {"p": {"halted": "its views are ahead"}}, []) == 1
    clock[0] += 20.0
    assert await reads.ask(facts, {"p": {"halted": "its views are ahead"}}, []) == 1
    notice = Notice("projector-unavailable", "no space", 1)
    assert await reads.ask(facts, {"p": {"halted": "its views are ahead"}}, [notice]) == 2
