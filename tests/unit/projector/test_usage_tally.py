"""The sums of usage: however a log is cut into batches, they are what each agent's times say."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from eventstore.language.agents import Agent
from projector.fold.fold import State, fold
from projector.intake.entries import event_of
from projector.store.rows import EventRow
from projector.store.usage_rows import MINUTE_MS, Sums
from projector.usage import tally as tallies
from projector.usage.accounts import POOL, Key, key_of, number_of
from projector.usage.ledger import grain_at, thinned, thinned_before
from projector.usage.tally import Tally, brought_to
from tests.chaos.judging import usage as judged
from tests.histories import POOLS, History
from tests.measured_usage import stretched, times_of

ALPHA = POOLS[0]
DAY_MS = 86_400_000


def history(seed: int, factor: int, length: int = 150) -> list[EventRow]:
    rows = stretched(History(seed).write(length), factor)
    return [row for row in rows if row.pool == ALPHA]


def tallied(rows: Sequence[EventRow], cuts: Sequence[int]) -> dict[tuple[int, int], Sums]:
    """All rows, where only the sums are carried from one batch to the next."""
    state = State()
    stored: dict[tuple[int, int], Sums] = {}
    sums: dict[Key, Sums] = {}
    for first, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        tally = Tally(ALPHA, dict(sums))
        events = [event_of(row) for row in rows[first:end]]
        changed = fold(ALPHA, events, state, tally=tally)
        tally.close()
        state = State(state.agents | changed.agents, state.workers | changed.workers)
        sums, stored = tally.sums, stored | tally.rows
    return stored


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.sampled_from((1, 900, 40_000)), data=st.data())
def test_the_sums_are_those_of_an_independent_fold(seed: int, factor: int, data: Any) -> None:
    rows = history(seed, factor)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    stored = tallied(rows, cuts)
    assert stored == tallied(rows, [])
    times = times_of(rows, ALPHA)
    numbers = {number_of(account): account for account in times}
    assert {account for account, _ in stored} == numbers.keys()
    for account, key in numbers.items():
        of_account = [sums for (one, _), sums in sorted(stored.items()) if one == account]
        for sums in of_account:
            wanted = judged.measure(times[key], 0, (sums.minute + 1) * MINUTE_MS)
            found = asdict(brought_to(sums, (sums.minute + 1) * MINUTE_MS))
            assert {name: found[name] for name in wanted} == wanted
        levels = judged.levels(times[key])
        assert {name: getattr(of_account[-1], name) for name in levels} == levels


def test_an_agent_that_was_there_when_the_log_began_late_is_counted_from_then_on() -> None:
    agent = Agent(agent_id="a", pool_name=ALPHA, role_type="r", project_id="p")
    tally = Tally(ALPHA, {})
    tally.start([agent], [], 90_000, 7)
    sums = brought_to(tally.sums[key_of(agent)], 100_000)
    assert (sums.agents, sums.pending_ms, sums.requested, sums.seq) == (1, 10_000, 0, 7)
    assert tally.sums[POOL].agents == 1


def test_agents_with_too_many_labels_share_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label that is different for each agent must not make a row for each."""
    monkeypatch.setattr(tallies, "LABELLED_MAX", 1)
    rows = history(3, 900)
    stored = tallied(rows, [])
    projects = {a[1] for a in times_of(rows, ALPHA) if a[1]}
    assert len({account for account, _ in stored}) <= 2 + len(projects)
    [*_, last] = [sums for (account, _), sums in stored.items() if account == 0]
    requested = sum(row.type == "agent.requested" for row in rows)
    assert last.requested == requested


def test_labels_in_another_order_are_the_same_account() -> None:
    one = Agent(
        agent_id="a", pool_name="p", role_type="r", project_id="p", labels={"a": "1", "b": "2"}
    )
    other = Agent(
        agent_id="b", pool_name="p", role_type="r", project_id="p", labels={"b": "2", "a": "1"}
    )
    assert key_of(one) == key_of(other)
    assert number_of(key_of(one)) > 0


@pytest.mark.parametrize(
    ("days", "grain"), [(0.0, 1), (6.9, 1), (8.1, 60), (399.0, 60), (402.0, 1440)]
)
def test_what_is_old_is_stored_by_the_hour_and_then_by_the_day(days: float, grain: int) -> None:
    now = 20_000 * DAY_MS + 12_345_678
    assert grain_at(int(now - days * DAY_MS), now) == grain


def test_of_what_is_old_the_last_row_of_each_hour_is_left() -> None:
    ts = 30 * DAY_MS
    [(_, week), _] = thinned_before(ts)
    minutes = [*range(0, 600, 7), *range(week - 90, week + 5)]
    kept = [row.minute for row in thinned((Sums("p", 1, m) for m in minutes), ts)]
    hours = {minute // 60: minute for minute in minutes if minute < week}
    assert kept == sorted({*hours.values(), *(m for m in minutes if m >= week)})


def test_a_name_that_postgresql_cannot_store_is_the_same_account_once_it_is_read() -> None:
    one = Agent(agent_id="a", pool_name="p", role_type="r\0", project_id="p")
    assert key_of(one) == key_of(replace(one, role_type="r\ufffd"))
