"""What a placer knows: a fold of the pool's events, on top of whatever was read before."""

from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.language import agents, events, workers
from eventstore.language.agents import Agent
from eventstore.language.events import Event, decode_body
from eventstore.language.workers import Worker
from tests.histories import History
from workers.supervisor.roster import Roster

POOL = "alpha"
NOW_MS = 1_000


def events_of(seed: int) -> list[Event]:
    rows = [row for row in History(seed).write(150) if row.pool == POOL]
    return [
        Event(
            decode_body(row.type, row.version, row.data), row.event_id, row.subject,
            row.incarnation, row.worker_id, row.epoch, seq=row.seq, ts=row.ts,
        )
        for row in rows
    ]  # fmt: skip


def states_after(found: Iterable[Event]) -> tuple[dict[str, Agent], dict[str, Worker]]:
    """What Redis has of them: those that have not ended."""
    live: dict[str, Agent] = {}
    all_workers: dict[str, Worker] = {}
    for event in found:
        name = event.subject
        if event.type.startswith("agent."):
            live[name] = agents.evolve(live.get(name), event, POOL)
        elif event.type.startswith("worker."):
            all_workers[name] = workers.evolve(all_workers.get(name), event, POOL)
    return {name: one for name, one in live.items() if not one.ended}, all_workers


def roster_after(found: Sequence[Event]) -> Roster:
    live, all_workers = states_after(found)
    return Roster(POOL, live.values(), all_workers.values(), NOW_MS)


def known(roster: Roster) -> tuple[Any, ...]:
    rooms = [
        (room.worker_id, room.accepts, room.slots, {agent.agent_id for agent in room.agents})
        for room in roster.rooms(isolation_limit=1)
    ]
    return set(roster.waiting), rooms


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_events_that_a_state_has_already_change_nothing(
    seed: int, read_share: float, from_share: float
) -> None:
    """The states are read a while after the position from which events are followed."""
    found = events_of(seed)
    read = int(len(found) * read_share)
    roster = roster_after(found[:read])
    for event in found[int(read * from_share) :]:
        roster.apply(event)
    assert known(roster) == known(roster_after(found))


def event(body: events.AnyBody, subject: str, worker: str = "", **more: Any) -> Event:
    return Event(body, f"e-{subject}", subject, more.pop("incarnation", 1), worker, 1, **more)


def requested(name: str, **facts: Any) -> Event:
    return event(events.AgentRequested(role_type="r", project_id="p", **facts), name)


def active(name: str, host: str = "h") -> list[Event]:
    order = events.WorkerRequested(host=host, max_agents=2, deadline_ms=9)
    started = events.WorkerStarted(host=host, pid=1, start_time=1, max_agents=2)
    return [event(order, name), event(started, name, name)]


def roster_of(*found: Event) -> Roster:
    roster = Roster(POOL, (), (), NOW_MS)
    for one in found:
        roster.apply(one)
    return roster


def accepting(roster: Roster, **how: Any) -> list[str]:
    return [room.worker_id for room in roster.rooms(**how) if room.accepts]


def test_what_is_requeued_waits_behind_the_others() -> None:
    claimed = event(events.AgentClaimed(), "a", "w")
    released = event(events.AgentReleased(reason="move", next_incarnation=2), "a", "w")
    roster = roster_of(*active("w"), requested("a"), claimed, requested("b"), released)
    assert list(roster.waiting) == ["b", "a"]
    assert roster.incarnation("a") == 2


def test_a_booked_agent_counts_before_its_event_comes_and_not_twice_after() -> None:
    roster = roster_of(*active("w"), requested("a", labels={"k": "v"}, priority=2))
    assert roster.waiting["a"].labels == {"k": "v"}
    roster.book("a", "w", NOW_MS)
    for _ in range(2):
        [room] = roster.rooms()
        assert (roster.waiting, [one.agent_id for one in room.agents]) == ({}, ["a"])
        roster.apply(event(events.AgentClaimed(), "a", "w"))


def test_a_worker_that_drains_or_is_excluded_gets_nothing_and_its_agents_count() -> None:
    found = [*active("w1"), *active("w2"), requested("a"), event(events.AgentClaimed(), "a", "w1")]
    roster = roster_of(*found, event(events.WorkerDraining(reason="r"), "w1", "w1"))
    assert accepting(roster) == ["w2"]
    assert accepting(roster, excluded={"w2"}) == []
    assert [len(room.agents) for room in roster.rooms()] == [1, 0]
    roster.apply(event(events.WorkerLost(reason="r"), "w1", "w1"))
    assert [(room.slots, len(room.agents)) for room in roster.rooms()] == [(0, 1), (2, 0)]


def test_empty_workers_are_left_for_isolated_agents() -> None:
    lost = events.AgentLost(reason="r", at_ms=1, alone=True)
    again = events.AgentRestarting(reason="lost", next_incarnation=2)
    found = [*active("w1"), *active("w2"), requested("a"), event(events.AgentClaimed(), "a", "w3")]
    roster = roster_of(*found, event(lost, "a", "w3"), event(again, "a"))
    assert roster.waiting == {}
    assert accepting(roster, isolation_limit=1) == ["w2"]
    roster.apply(event(events.AgentClaimed(), "a", "w1", incarnation=2))
    assert accepting(roster, isolation_limit=1) == ["w2"], "it has the worker for itself"


def test_no_worker_is_left_for_an_isolated_agent_whose_state_is_lost() -> None:
    """It waits for a person."""
    lost = events.AgentLost(reason="r", at_ms=1, alone=True)
    again = events.AgentRestarting(reason="lost", next_incarnation=2)
    claimed = event(events.AgentClaimed(), "a", "w")
    saved = event(events.AgentSaved(save=1, size=1, sha256="d"), "a", "w")
    found = [*active("v"), requested("a"), claimed, saved, event(lost, "a", "w")]
    roster = roster_of(*found, event(again, "a"))
    assert accepting(roster, isolation_limit=1) == []
    roster.apply(event(events.AgentStateLost(save=1, sha256="d"), "a"))
    assert accepting(roster, isolation_limit=1) == ["v"]


def test_what_waits_for_its_restart_counts_and_is_in_no_worker() -> None:
    claimed = event(events.AgentClaimed(), "a", "w")
    error = events.Error(type="E")
    crashed = events.AgentCrashed(error=error, at_ms=1, window_ms=1, due_ms=5, failures=1)
    roster = roster_of(*active("w"), requested("a"), claimed, event(crashed, "a", "w"))
    rooms = [(room.worker_id, room.slots, len(room.agents)) for room in roster.rooms()]
    assert (rooms, roster.waiting) == ([("", 0, 1), ("w", 2, 0)], {})
    again = events.AgentRestarting(reason="crashed", next_incarnation=2)
    roster.apply(event(again, "a"))
    assert roster.waiting["a"].returns
    assert [(room.worker_id, len(room.agents)) for room in roster.rooms()] == [("w", 0)]


def test_an_agent_that_had_failed_and_is_wanted_again_is_to_be_read() -> None:
    again = events.AgentRestartRequested(reason="r", next_incarnation=2)
    roster = roster_of(event(again, "a"), event(events.AgentClaimed(), "b", "w"))
    assert (roster.unknown, roster.waiting) == ({"a"}, {})
