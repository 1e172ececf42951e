"""Which workers are emptied, and which agents are asked to move."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.language.consolidation import (
    AGAIN_MS,
    ANSWER_MS,
    PATIENCE_MS,
    Fleet,
    MoveMemory,
    MovePolicy,
    Occupant,
    Occupied,
    Plan,
    plan_moves,
    shortlist,
)

SLOTS = 10
NOW = 10_000_000


def worker(name: str, agents: int, **more: object) -> Occupied:
    """One of ten slots, with agents `name0`, `name1`, …"""
    free = 0 if more.get("emptying") else SLOTS - agents
    occupants = tuple(Occupant(agent_id=f"{name}{n}") for n in range(agents))
    known = {"free": free, "occupants": occupants, **more}
    return Occupied(worker_id=name, agents=agents, **known)  # type: ignore[arg-type]


def fleet(*workers: Occupied, surplus: int = 1, **more: object) -> Fleet:
    return Fleet(ts=NOW, workers=workers, surplus=surplus, **more)  # type: ignore[arg-type]


def plan(seen: Fleet, policy: MovePolicy | None = None, memory: MoveMemory | None = None) -> Plan:
    return plan_moves(seen, policy or MovePolicy(), memory or MoveMemory())[0]


def test_the_worker_with_the_fewest_agents_is_emptied() -> None:
    found = plan(fleet(worker("a", 6), worker("b", 2), worker("c", 3)))
    assert (found.victims, found.cordon) == (("b",), ("b",))
    assert found.moves == (("b", "b0"), ("b", "b1"))
    assert found.kept == {"a": "its slots are needed", "c": "its slots are needed"}
    assert not found.uncordon


def test_of_two_with_as_many_agents_that_comes_first_whose_agents_have_saved_states() -> None:
    saved = (Occupant(agent_id="b0", saved=True), Occupant(agent_id="b1", saved=True))
    found = plan(fleet(worker("a", 2), worker("b", 2, occupants=saved), worker("c", 3)))
    assert found.victims == ("b",)


def test_without_a_surplus_nothing_is_moved() -> None:
    found = plan(fleet(worker("a", 1), worker("b", 1), surplus=0))
    assert not found.acts
    assert not found.victims


def test_as_many_are_emptied_as_there_is_a_surplus_of_if_the_rest_has_room() -> None:
    workers = [worker("a", 8), worker("b", 1), worker("c", 2), worker("d", 3)]
    assert plan(fleet(*workers, surplus=2)).victims == ("b", "c")
    found = plan(fleet(*workers[:3], worker("d", 9), surplus=2))
    assert found.victims == ("b", "c"), "a and d have three free slots"
    found = plan(fleet(worker("a", 9), worker("b", 1), worker("c", 2), surplus=2))
    assert found.victims == ("b",)
    assert found.kept["c"] == "its agents have no room in other workers"


def test_an_empty_worker_is_no_room_where_it_is_to_be_removed() -> None:
    found = plan(fleet(worker("a", 10), worker("b", 1), worker("c", 0)))
    assert not found.victims
    assert found.kept["c"] == "it is empty"


def test_a_full_worker_is_not_emptied_into_others() -> None:
    found = plan(fleet(worker("a", 10), worker("b", 1, busy=1), worker("c", 2, busy=2)))
    assert not found.victims
    assert found.kept["a"] == "it is full"


def test_slots_that_agents_wait_for_are_no_room() -> None:
    workers = (worker("a", 8), worker("b", 2))
    assert plan(fleet(*workers)).victims == ("b",)
    assert not plan(fleet(*workers, waiting=1)).victims


def test_busy_agents_stay_unless_asked_for() -> None:
    workers = (worker("a", 5), worker("b", 2, busy=1), worker("c", 3))
    found = plan(fleet(*workers))
    assert found.victims == ("c",)
    assert found.kept["b"] == "a busy agent"
    assert plan(fleet(*workers), MovePolicy(busy=True)).victims == ("b",)


def test_what_cannot_be_emptied_says_why() -> None:
    starting = (Occupant(agent_id="c0", obstacle="is starting"),)
    found = plan(
        fleet(worker("a", 10), worker("b", 1, obstacle="it is cordoned"),
              worker("c", 1, occupants=starting), surplus=3)
    )  # fmt: skip
    assert not found.victims
    assert found.kept["b"] == "it is cordoned"
    assert found.kept["c"] == "agent c0 is starting"


def test_no_more_agents_move_within_a_minute_than_allowed() -> None:
    many = fleet(worker("a", 2), worker("b", 8, emptying=True))
    found = plan(many, MovePolicy(per_minute=8))
    assert (len(found.moves), found.limit) == (8, "")
    asked = tuple((f"x{n}", NOW - 59_999) for n in range(5))
    found = plan(replace(many, asked=asked), MovePolicy(per_minute=8))
    assert (len(found.moves), found.limit) == (3, "moves_per_minute")
    asked = tuple((f"x{n}", NOW - 60_000) for n in range(5))
    assert len(plan(replace(many, asked=asked), MovePolicy(per_minute=8)).moves) == 8


def test_only_what_can_be_emptied_within_a_minute_is_cordoned() -> None:
    workers = [worker(name, 4) for name in "abcd"]
    policy = MovePolicy(per_minute=9)
    found = plan(fleet(*workers, worker("e", 5), worker("f", 5), worker("g", 5), surplus=3), policy)
    assert (found.victims, found.cordon) == (("a", "b", "c"), ("a", "b"))
    one = plan(fleet(worker("a", 4), worker("b", 5), surplus=1), MovePolicy(per_minute=1))
    assert one.cordon == ("a",)


def test_an_agent_on_its_way_has_a_slot_and_is_asked_again_later() -> None:
    seen = fleet(worker("a", 9), worker("b", 1, emptying=True), asked=(("b0", NOW - 1_000),))
    assert not plan(seen).moves
    assert plan(replace(seen, asked=(("b0", NOW - ANSWER_MS),))).moves == (("b", "b0"),)


def test_an_agent_is_asked_so_often_within_an_hour() -> None:
    asked = (("b0", NOW - 3_000_000), ("b0", NOW - ANSWER_MS - 1))
    found = plan(fleet(worker("a", 5), worker("b", 1, emptying=True), asked=asked))
    why = "agent b0 was asked to move 2 times within the hour"
    assert found.uncordon == {"b": why}
    assert plan(fleet(worker("a", 5), worker("b", 1), asked=asked)).kept["b"] == why
    under_way = (*asked[:1], ("b0", NOW - 1))
    assert not plan(fleet(worker("a", 5), worker("b", 1, emptying=True), asked=under_way)).acts


def test_what_has_begun_is_finished_first() -> None:
    found = plan(fleet(worker("a", 1), worker("b", 3, emptying=True), worker("c", 4)))
    assert (found.victims, found.cordon, found.uncordon) == (("b",), (), {})
    assert found.kept["a"] == "its slots are needed"


def test_a_worker_is_uncordoned_where_its_slots_are_needed() -> None:
    seen = fleet(worker("a", 5), worker("b", 3, emptying=True), worker("c", 0, emptying=True))
    found = plan(replace(seen, surplus=0))
    assert found.uncordon == dict.fromkeys("bc", "its slots are needed")
    waiting = plan(replace(seen, waiting=6))
    assert waiting.uncordon["b"] == "its agents have no room in other workers"
    full = plan(fleet(worker("a", 10), worker("b", 3, emptying=True), waiting=1))
    assert full.uncordon["b"]
    _, memory = plan_moves(replace(seen, surplus=0), MovePolicy(), MoveMemory())
    later = fleet(worker("a", 5), worker("b", 3))
    assert plan(later, memory=memory).victims == ("a",), "b is left for a while"


def test_a_worker_whose_agent_becomes_busy_is_waited_for_and_then_given_up() -> None:
    seen = fleet(worker("a", 5), worker("b", 2, emptying=True, busy=1))
    found, memory = plan_moves(seen, MovePolicy(), MoveMemory())
    assert not found.acts
    later = replace(seen, ts=NOW + PATIENCE_MS)
    found, memory = plan_moves(later, MovePolicy(), memory)
    assert found.uncordon == {"b": "an agent was busy for 60 s"}
    freed = fleet(worker("a", 5), worker("b", 2))
    again = replace(freed, ts=later.ts + AGAIN_MS - 1)
    found, memory = plan_moves(again, MovePolicy(), memory)
    assert found.cordon == ("a",), "the other one is tried instead"
    only = fleet(worker("b", 2), worker("c", 10))
    found, memory = plan_moves(replace(only, ts=again.ts), MovePolicy(), memory)
    assert found.kept["b"] == "it was uncordoned a short time ago"
    assert plan_moves(replace(only, ts=again.ts + 1), MovePolicy(), memory)[1].given_up == {}


def test_a_worker_that_someone_uncordons_is_left_to_them() -> None:
    seen = fleet(worker("a", 5), worker("b", 2))
    found, memory = plan_moves(seen, MovePolicy(), MoveMemory())
    assert found.cordon == ("b",)
    began = fleet(worker("a", 5), worker("b", 2, emptying=True))
    _, memory = plan_moves(began, MovePolicy(), memory)
    found, _ = plan_moves(seen, MovePolicy(), memory)
    assert found.victims == ("a",)


def test_the_agents_of_those_are_read_that_may_be_emptied() -> None:
    workers = (worker("a", 5), worker("b", 0), worker("c", 2, obstacle="it drains"), worker("d", 2))
    assert shortlist(fleet(*workers, worker("e", 9, emptying=True)), MovePolicy(), 9) == [
        "e", "d", "a",
    ]  # fmt: skip
    assert shortlist(fleet(*workers), MovePolicy(), 1) == ["d"]


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    workers = tuple(
        worker(
            f"w{n}",
            draw(st.integers(0, SLOTS)),
            busy=draw(st.sampled_from((0, 0, 1))),
            emptying=draw(st.booleans()),
            obstacle=draw(st.sampled_from(("", "", "", "it is suspect"))),
        )
        for n in range(draw(st.integers(0, 8)))
    )
    agents = [it.agent_id for one in workers for it in one.occupants or ()]
    times = st.integers(NOW - 3_600_000, NOW)
    asked = draw(st.lists(st.tuples(st.sampled_from(agents), times), max_size=30)) if agents else []
    return fleet(
        *workers,
        surplus=draw(st.integers(0, 8)),
        waiting=draw(st.integers(0, 12)),
        asked=tuple(sorted(asked, key=lambda one: one[1])),
    )


@given(fleets(), st.integers(1, 40), st.booleans())
def test_never_more_is_moved_than_has_room_and_the_budget_allows(
    seen: Fleet, per_minute: int, busy: bool
) -> None:
    policy = MovePolicy(per_minute=per_minute, busy=busy)
    found, memory = plan_moves(seen, policy, MoveMemory())
    assert plan_moves(seen, policy, MoveMemory()) == (found, memory)
    by_id = {one.worker_id: one for one in seen.workers}
    assert len(found.victims) <= seen.surplus
    assert {*found.victims} & {*found.kept} == set()
    for name in found.victims:
        assert by_id[name].agents
        assert not by_id[name].obstacle
        assert busy or not by_id[name].busy or by_id[name].emptying
    cordoned = {n for n, one in by_id.items() if one.emptying} - {*found.uncordon}
    cordoned |= {*found.cordon}
    room = sum(one.free for n, one in by_id.items() if n not in cordoned)
    assert len(found.moves) <= max(room - seen.waiting, 0)
    recent = sum(NOW - at < 60_000 for _, at in seen.asked)
    assert len(found.moves) <= max(per_minute - recent, 0)
    for name, agent in found.moves:
        assert name in cordoned
        assert busy or not by_id[name].busy
        assert Occupant(agent_id=agent) in (by_id[name].occupants or ())
