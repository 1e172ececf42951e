"""What opens an alert, what changes it, and what closes it."""

from collections.abc import Iterator
from itertools import count

import pytest
from msgspec.structs import replace

from eventstore.language.alerts import Case
from gateway.alerts.alerts import Alert, Verdict, evaluate
from gateway.alerts.facts import Facts, PoolFacts
from gateway.alerts.ledger import CLEAR_MS, Changed, Closed, Ledger, Opened, current

NOW = 5_000_000
ids: Iterator[int] = count()


def new_id() -> str:
    return f"id{next(ids)}"


def failed(*agents: str, now_ms: int = NOW) -> Facts:
    cases = tuple(Case(name, now_ms - 10 + at, "why") for at, name in enumerate(agents))
    return Facts(now_ms=now_ms, pools={"p": PoolFacts(now_ms=now_ms, failed=cases)})


def verdict(*agents: str) -> Verdict:
    return evaluate(failed(*agents))


@pytest.fixture
def ledger() -> Ledger:
    """With one open alert that was written."""
    ledger = Ledger()
    ledger.observe(verdict("a1"), NOW, new_id)
    [opened] = ledger.unwritten
    assert isinstance(opened, Opened)
    ledger.unwritten.clear()
    return ledger


def test_an_alert_is_opened_once_with_the_time_since_when_it_holds() -> None:
    ledger = Ledger()
    for at in (0, 5_000, 10_000):
        ledger.observe(verdict("a1"), NOW + at, new_id)
    [change] = ledger.unwritten
    assert isinstance(change, Opened)
    assert (change.alert.subject, change.alert.since) == ("a1", NOW - 10)
    assert change.alert.alert_id


def test_an_alert_whose_start_is_not_known_was_opened_when_it_was_observed() -> None:
    ledger = Ledger()
    ledger.observe(evaluate(Facts(now_ms=NOW, no_writes_reason="x")), NOW, new_id)
    [change] = ledger.unwritten
    assert change.alert.since == NOW


def test_more_agents_change_an_alert_and_open_none(ledger: Ledger) -> None:
    ledger.observe(verdict("a1", "a2"), NOW + 5_000, new_id)
    [change] = ledger.unwritten
    assert isinstance(change, Changed)
    assert (change.alert.subject, change.alert.count) == ("p", 2)


def test_an_alert_is_closed_when_its_condition_was_absent_for_long_enough(ledger: Ledger) -> None:
    for at in (5_000, 10_000):
        ledger.observe(verdict(), NOW + at, new_id)
        assert ledger.open
        assert not ledger.unwritten
    ledger.observe(verdict(), NOW + 5_000 + CLEAR_MS, new_id)
    [change] = ledger.unwritten
    assert isinstance(change, Closed)
    assert change.at_ms == NOW + 5_000, "its end is when it was first absent"
    assert not ledger.open


def test_a_condition_that_comes_back_soon_is_the_same_alert(ledger: Ledger) -> None:
    ledger.observe(verdict(), NOW + 5_000, new_id)
    ledger.observe(verdict("a1"), NOW + 10_000, new_id)
    ledger.observe(verdict(), NOW + 15_000, new_id)
    ledger.observe(verdict(), NOW + 20_000, new_id)
    assert ledger.open
    assert not [one for one in ledger.unwritten if isinstance(one, Closed)]


def test_what_cannot_be_decided_closes_nothing(ledger: Ledger) -> None:
    unknown = Verdict({}, frozenset({"agent-failed"}), None)
    others = Verdict({}, frozenset(), frozenset({"another pool"}))
    for at in range(0, 100_000, 5_000):
        ledger.observe(unknown, NOW + at, new_id)
        ledger.observe(others, NOW + at, new_id)
    assert ledger.open
    assert not ledger.unwritten
    [shown] = current(unknown, ledger.open)
    assert shown.name == "agent-failed"


def test_an_alert_of_a_rule_that_is_no_more_is_closed() -> None:
    ledger = Ledger()
    old = Alert(
        name="of-an-older-version", severity="warning", subject="x", message="", action="", since=7
    )
    ledger.adopt([replace(old, alert_id="i")])
    ledger.observe(verdict(), NOW, new_id, clear_ms=0)
    assert [type(one) for one in ledger.unwritten] == [Closed]


def test_what_was_written_is_written_again_where_it_was_lost(ledger: Ledger) -> None:
    [alert] = ledger.open.values()
    ledger.reopen()
    ledger.reopen()
    [change] = ledger.unwritten
    assert isinstance(change, Opened)
    assert change.alert == alert


def test_the_current_alerts_have_the_ids_under_which_they_were_opened(ledger: Ledger) -> None:
    [shown] = current(verdict("a1"), ledger.open)
    assert shown.alert_id == next(iter(ledger.open.values())).alert_id
    assert current(verdict(), ledger.open) == []
