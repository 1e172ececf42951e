"""`place`: what each strategy chooses."""

import time
from collections import Counter

import pytest

from eventstore.language.placement import Candidate, Room, held_back, place
from eventstore.language.placement_policy import Cap, PlacementPolicy

NOW_MS = 10_000_000


def agents(*projects: str, **facts: object) -> list[Candidate]:
    return [
        Candidate(agent_id=f"a{at:03}", project_id=project, **facts)  # type: ignore[arg-type]
        for at, project in enumerate(projects)
    ]


def worker(name: str, *projects: str, slots: int = 10, **facts: object) -> Room:
    held = [
        Candidate(agent_id=f"{name}-{at}", project_id=project, claimed_ms=NOW_MS)
        for at, project in enumerate(projects)
    ]
    return Room(worker_id=name, slots=slots, agents=held, **facts)  # type: ignore[arg-type]


def chosen(waiting: list[Candidate], workers: list[Room], **policy: object) -> list[str]:
    """The worker of each that waits, in its order; empty if it gets none."""
    rules = PlacementPolicy(**policy)  # type: ignore[arg-type]
    found = dict(place(waiting, workers, rules, now_ms=NOW_MS).assignments)
    return [found.get(agent.agent_id, "") for agent in waiting]


WORKERS = [worker("w1", "p", "p", "q"), worker("w2", "q"), worker("w3")]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("spread", ["w3", "w2", "w3"]),
        ("pack", ["w1", "w1", "w1"]),
        ("affinity", ["w1", "w1", "w1"]),
        ("resource", ["w3", "w2", "w3"]),
    ],
)
def test_each_strategy_chooses_its_worker(strategy: str, expected: list[str]) -> None:
    assert chosen(agents("p", "p", "p"), WORKERS, strategy=strategy) == expected


def test_affinity_prefers_a_worker_of_the_project_to_a_fuller_one() -> None:
    workers = [worker("w1", "p", "p", "p"), worker("w2", "q"), worker("w3", *["q"] * 10)]
    assert chosen(agents("q", "q", "new"), workers, strategy="affinity") == ["w2", "w2", "w1"]


def test_booked_slots_count_for_those_that_follow() -> None:
    found = chosen(agents(*["p"] * 9), [worker(f"w{n}") for n in range(3)], strategy="spread")
    assert Counter(found) == {"w0": 3, "w1": 3, "w2": 3}


def test_the_load_is_a_share_of_the_slots() -> None:
    workers = [worker("w1", "p", "p", slots=10), worker("w2", "p", slots=2)]
    assert chosen(agents("p"), workers, strategy="spread") == ["w1"]


def test_what_has_no_room_gets_nothing() -> None:
    workers = [worker("w1", "p", accepts=False), worker("w2", "p", "p", slots=2), worker("w3")]
    assert chosen(agents("p"), workers, strategy="pack") == ["w3"]
    assert chosen(agents("p"), workers[:2], strategy="pack") == [""]


def test_pressure_counts_in_steps_and_grows_with_what_is_booked() -> None:
    workers = [worker("w1", "p", pressure=0.41), worker("w2", "p", "p", "p", pressure=0.35)]
    found = chosen(agents(*["p"] * 3), workers, strategy="resource")
    assert found == ["w2", "w1", "w2"]


def test_the_highest_priority_comes_first_then_the_longest_wait() -> None:
    waiting = [
        Candidate(agent_id="old"),
        Candidate(agent_id="urgent", priority=9),
        Candidate(agent_id="late", priority=9),
    ]
    assert chosen(waiting, [worker("w1", slots=1)]) == ["", "w1", ""]
    assert chosen(waiting, [worker("w1", slots=2)]) == ["", "w1", "w1"]


def test_a_project_with_fewer_agents_for_its_weight_comes_first() -> None:
    waiting = agents("a", "a", "a", "a", "b", "b", "b")
    held = worker("w1", "a", "a", "b", slots=7)
    found = chosen(waiting, [held], project_weights={"a": 1, "b": 1})
    assert found == ["w1", "w1", "", "", "w1", "w1", ""]
    weighted = chosen(waiting, [held], project_weights={"a": 3, "*": 1})
    assert weighted == ["w1", "w1", "w1", "", "w1", "", ""]


def test_a_priority_orders_the_agents_of_its_project_only_where_weights_are_set() -> None:
    waiting = [
        Candidate(agent_id="a1", project_id="a", priority=9),
        Candidate(agent_id="a2", project_id="a", priority=9),
        Candidate(agent_id="b1", project_id="b"),
        Candidate(agent_id="b2", project_id="b", priority=5),
    ]
    room = [worker("w1", slots=2)]
    assert chosen(waiting, room, project_weights={"*": 1}) == ["w1", "", "", "w1"]
    assert chosen(waiting, room) == ["w1", "w1", "", ""]


def test_a_cap_of_a_project_delays_no_other() -> None:
    waiting = agents("a", "a", "b", "c")
    policy = PlacementPolicy(project_caps={"a": 2, "*": 1})
    placed = place(waiting, [worker("w1", "a", "c")], policy, now_ms=NOW_MS)
    assert [agent for agent, _ in placed.assignments] == ["a000", "a002"]
    assert placed.held_back == {
        "a001": Cap("project-cap", "a", 2),
        "a003": Cap("project-cap", "c", 1),
    }


def test_no_cap_holds_back_an_agent_that_ran_before() -> None:
    """It was released, say: another of its project must not take its place."""
    waiting = [
        Candidate(agent_id="new", project_id="a"),
        Candidate(agent_id="moved", project_id="a", returns=True),
    ]
    away = Room(worker_id="", slots=0, agents=agents("a"))
    room = worker("w1", "a")
    assert chosen(waiting, [room], project_caps={"a": 2}) == ["", "w1"]
    assert chosen(waiting, [room], project_caps={"a": 3}) == ["w1", "w1"]
    assert chosen(waiting, [room, away], project_caps={"a": 3}) == ["", "w1"]
    assert chosen(waiting, [worker("w1", slots=1)]) == ["", "w1"]


def test_a_cap_of_a_label_counts_one_value_or_each() -> None:
    waiting = [
        *agents("p", "p", labels={"tier": "free", "team": "red"}),
        Candidate(agent_id="blue", labels={"team": "blue"}),
    ]
    room = [worker("w1")]
    assert chosen(waiting, room, label_caps={"tier=free": 1}) == ["w1", "", "w1"]
    assert chosen(waiting, room, label_caps={"team": 1}) == ["w1", "", "w1"]
    assert chosen(waiting, room, label_caps={"team": 5, "team=red": 0}) == ["", "", "w1"]


def test_what_caps_hold_back_does_not_depend_on_free_slots() -> None:
    waiting, policy = agents("a", "a", "a", "b"), PlacementPolicy(project_caps={"a": 2})
    full = [worker("w1", "a", slots=1)]
    assert set(held_back(waiting, full, policy)) == {"a001", "a002"}
    assert place(waiting, full, policy, now_ms=NOW_MS).assignments == ()
    assert held_back(waiting, full, PlacementPolicy()) == {}


def test_values_of_an_anti_affine_label_are_on_different_workers_and_hosts() -> None:
    waiting = agents(*["p"] * 5, labels={"app": "db"})
    workers = [worker(f"w{n}", host=f"h{n % 2}") for n in range(4)]
    found = chosen(waiting, workers, anti_affinity=("app",), strategy="pack")
    assert (found[0], found[1]) == ("w0", "w1")
    assert Counter(found[:4]) == {"w0": 1, "w1": 1, "w2": 1, "w3": 1}
    assert found[4] in {"w0", "w1", "w2", "w3"}, "if there is no other, together is better"


def test_long_lives_are_put_with_long_ones() -> None:
    """Every tenth of a hundred lives for a day, the others for ten minutes."""
    lives = [86_400.0 if at % 10 == 3 else 600.0 for at in range(100)]
    waiting = [
        Candidate(agent_id=f"a{at:03}", expected_seconds=life) for at, life in enumerate(lives)
    ]
    workers = [worker(f"w{n:02}") for n in range(12)]
    found = chosen(waiting, workers, strategy="pack")
    assert len({at for at, life in zip(found, lives, strict=True) if life > 600}) == 1
    assert len(set(found)) == 10


def test_lives_may_be_known_by_a_label() -> None:
    long = [Candidate(agent_id="long", labels={"kind": "chat"})]
    held = Candidate(agent_id="x", labels={"kind": "chat"}, claimed_ms=NOW_MS - 60_000)
    short = Candidate(agent_id="y", expected_seconds=60, claimed_ms=NOW_MS)
    workers = [
        Room(worker_id="w1", slots=10, agents=[short, short]),
        Room(worker_id="w2", slots=10, agents=[held]),
    ]
    assert chosen(long, workers, label_seconds={"kind=chat": 86_400}) == ["w2"]
    assert chosen(long, workers) == ["w1"]


def test_what_outlived_its_estimate_counts_as_long_lived() -> None:
    overdue = Candidate(agent_id="x", expected_seconds=60, claimed_ms=1)
    young = Candidate(agent_id="y", expected_seconds=60, claimed_ms=NOW_MS)
    workers = [
        Room(worker_id="w1", slots=10, agents=[overdue, overdue]),
        Room(worker_id="w2", slots=10, agents=[young]),
    ]
    assert chosen([Candidate(agent_id="n", expected_seconds=60)], workers) == ["w2"]
    assert chosen([Candidate(agent_id="n", expected_seconds=8_000)], workers) == ["w1"]


def test_at_most_so_many_are_placed_at_once() -> None:
    placed = place(agents(*["p"] * 9), [worker("w1")], PlacementPolicy(), now_ms=NOW_MS, limit=4)
    assert [agent for agent, _ in placed.assignments] == ["a000", "a001", "a002", "a003"]


@pytest.mark.parametrize("strategy", ["spread", "pack", "affinity", "resource"])
def test_a_thousand_workers_with_ten_thousand_agents_are_no_burden(strategy: str) -> None:
    workers = [worker(f"w{n:04}", *[f"p{n % 50}"] * 9) for n in range(1_000)]
    waiting = agents(*[f"p{n % 50}" for n in range(100)], expected_seconds=600)
    policy = PlacementPolicy(strategy=strategy, project_caps={"p1": 185})
    started = time.process_time()
    placed = place(waiting, workers, policy, now_ms=NOW_MS)
    assert len(placed.assignments) == 100
    assert time.process_time() - started < 0.5
