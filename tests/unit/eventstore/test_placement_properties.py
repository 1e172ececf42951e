"""What `place` keeps to, whatever waits and runs: capacity, caps, fairness, and that it is pure."""

from collections import Counter
from collections.abc import Iterable
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.language.placement import Candidate, Room, held_back, pairs_of, place
from eventstore.language.placement_policy import PlacementPolicy

NOW_MS = 1_000_000
PROJECTS = ["a", "b", "c"]
labels = st.dictionaries(st.sampled_from(["team", "tier"]), st.sampled_from(["x", "y"]))
facts = st.tuples(
    st.sampled_from(PROJECTS),
    labels,
    st.integers(0, 9),
    st.none() | st.floats(1, 1e6),
    st.booleans(),
)
shapes = st.tuples(st.integers(1, 4), st.booleans(), st.floats(0, 2), st.lists(facts, max_size=4))
policies = st.builds(
    PlacementPolicy,
    strategy=st.sampled_from(["spread", "pack", "affinity", "resource"]),
    project_caps=st.dictionaries(st.sampled_from([*PROJECTS, "*"]), st.integers(0, 4), max_size=2),
    label_caps=st.dictionaries(
        st.sampled_from(["team", "team=x", "tier=y"]), st.integers(0, 4), max_size=2
    ),
    project_weights=st.dictionaries(
        st.sampled_from([*PROJECTS, "*"]), st.floats(0.1, 9), max_size=3
    ),
    anti_affinity=st.lists(st.sampled_from(["team", "tier"]), max_size=1),
    label_seconds=st.just({"team=x": 90_000.0}),
)


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[Candidate], list[Room]]:
    """What waits, and workers, none of which has more agents than slots."""
    waiting = [
        candidate(f"a{at:02}", one) for at, one in enumerate(draw(st.lists(facts, max_size=12)))
    ]
    workers = []
    for number, (slots, accepts, pressure, held) in enumerate(draw(st.lists(shapes, max_size=5))):
        agents = [candidate(f"h{number}-{at}", one) for at, one in enumerate(held[:slots])]
        workers.append(
            Room(
                worker_id=f"w{number}", slots=slots, accepts=accepts, pressure=pressure,
                host=f"h{number % 2}", agents=[replace(one, claimed_ms=1) for one in agents],
            )
        )  # fmt: skip
    return waiting, workers


def candidate(name: str, of: tuple[str, dict[str, str], int, float | None, bool]) -> Candidate:
    project, named, priority, seconds, returns = of
    return Candidate(
        agent_id=name,
        project_id=project,
        labels=named,
        priority=priority,
        expected_seconds=seconds,
        returns=returns,
    )


def counts(agents: Iterable[Candidate]) -> tuple[Counter[str], Counter[str]]:
    found = list(agents)
    return Counter(one.project_id for one in found), Counter(
        chain.from_iterable(pairs_of(one.labels) for one in found)
    )


@given(pools(), policies)
def test_no_worker_gets_more_than_its_slots_and_none_that_accepts_nothing(
    pool: tuple[list[Candidate], list[Room]], policy: PlacementPolicy
) -> None:
    waiting, workers = pool
    placed = place(waiting, workers, policy, now_ms=NOW_MS).assignments
    got = Counter(worker_id for _, worker_id in placed)
    by_id = {one.worker_id: one for one in workers}
    for worker_id, count in got.items():
        assert by_id[worker_id].accepts
        assert len(by_id[worker_id].agents) + count <= by_id[worker_id].slots
    names = [agent_id for agent_id, _ in placed]
    assert len(names) == len(set(names)), "none is placed twice"
    assert set(names) <= {one.agent_id for one in waiting}


@given(pools(), policies)
def test_no_cap_is_exceeded_by_a_placement(
    pool: tuple[list[Candidate], list[Room]], policy: PlacementPolicy
) -> None:
    waiting, workers = pool
    known = {one.agent_id: one for one in waiting}
    placement = place(waiting, workers, policy, now_ms=NOW_MS)
    new = [known[agent_id] for agent_id, _ in placement.assignments]
    new = [one for one in new if not one.returns]
    returning = [one for one in waiting if one.returns]
    projects, pairs = counts(chain(new, returning, *(one.agents for one in workers)))
    for one in new:
        limit = policy.project_caps.get(one.project_id, policy.project_caps.get("*"))
        assert limit is None or projects[one.project_id] <= limit
        for pair in pairs_of(one.labels):
            limit = policy.label_caps.get(pair, policy.label_caps.get(pair.partition("=")[0]))
            assert limit is None or pairs[pair] <= limit
    assert not placement.held_back.keys() & {one.agent_id for one in (*new, *returning)}


@given(pools(), policies)
def test_what_may_run_is_placed_while_slots_are_free(
    pool: tuple[list[Candidate], list[Room]], policy: PlacementPolicy
) -> None:
    """Nothing is left waiting with a free slot but what a cap holds back."""
    waiting, workers = pool
    placed = place(waiting, workers, policy, now_ms=NOW_MS).assignments
    free = sum(one.slots - len(one.agents) for one in workers if one.accepts)
    may_run = len(waiting) - len(held_back(waiting, workers, policy))
    assert len(placed) == min(free, may_run)


@given(pools(), policies)
def test_the_same_state_gives_the_same_placement_in_any_order_of_workers(
    pool: tuple[list[Candidate], list[Room]], policy: PlacementPolicy
) -> None:
    waiting, workers = pool
    assert place(waiting, workers, policy, now_ms=NOW_MS) == place(
        waiting, workers[::-1], policy, now_ms=NOW_MS
    )


@given(
    st.lists(st.sampled_from(PROJECTS), min_size=30, max_size=60),
    st.lists(st.sampled_from(PROJECTS), max_size=10),
    st.dictionaries(st.sampled_from([*PROJECTS, "*"]), st.integers(1, 9), min_size=1),
    st.integers(1, 20),
)
def test_scarce_slots_go_to_projects_by_their_weights(
    waiting: list[str], held: list[str], weights: dict[str, int], free: int
) -> None:
    """No project is ahead of one that still waits by more than one agent for its weight."""
    queue = [Candidate(agent_id=f"a{at:02}", project_id=p) for at, p in enumerate(waiting)]
    busy = [Candidate(agent_id=f"h{at:02}", project_id=p) for at, p in enumerate(held)]
    workers = [
        Room(worker_id="w0", slots=len(busy), agents=busy),
        Room(worker_id="w1", slots=free),
    ]
    policy = PlacementPolicy(project_weights=weights)
    placed = place(queue, workers, policy, now_ms=NOW_MS).assignments
    known = {one.agent_id: one.project_id for one in queue}
    new = Counter(known[agent_id] for agent_id, _ in placed)
    total, left = Counter(held) + new, Counter(waiting) - new

    def share(project: str, count: int) -> float:
        return count / weights.get(project, weights.get("*", 1))

    for ahead in new:
        for behind in left:
            assert share(ahead, total[ahead] - 1) <= share(behind, total[behind])


@given(pools(), policies, st.integers(1, 3))
def test_in_several_calls_as_many_are_placed_as_in_one(
    pool: tuple[list[Candidate], list[Room]], policy: PlacementPolicy, limit: int
) -> None:
    waiting, workers = pool
    at_once = place(waiting, workers, policy, now_ms=NOW_MS).assignments
    rooms, left, placed = {one.worker_id: one for one in workers}, waiting, 0
    while found := place(
        left, list(rooms.values()), policy, now_ms=NOW_MS, limit=limit
    ).assignments:
        known = {one.agent_id: one for one in left}
        for agent_id, worker_id in found:
            room = rooms[worker_id]
            new = replace(known[agent_id], claimed_ms=NOW_MS)
            rooms[worker_id] = replace(room, agents=[*room.agents, new])
        left = [one for one in left if one.agent_id not in dict(found)]
        placed += len(found)
    assert placed == len(at_once)
