"""`muster plan`, `muster consolidate`, and a simulated pool whose agents are moved."""

import random
from typing import Any

import pytest

from eventstore.language.consolidation import MovePolicy
from eventstore.language.scale_policy import Behaviour, ScalePolicy
from muster.cli.resources import consolidate
from muster.simulation.arrivals import Arrival, Load
from muster.simulation.consolidation import ConsolidatingPool
from muster.simulation.outcome import Outcome
from muster.simulation.pool import SimulatedPool

WORKER = "01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e"
ROW = {"worker_id": WORKER, "host": "h1", "agents": 1, "busy": 0, "free": 9, "started": False}
PLAN: dict[str, Any] = {
    "pool_name": "night",
    "workers_fewer": 1,
    "moves": 1,
    "running": False,
    "why": "agents that move: 1, at most 20 a minute",
    "workers": [
        {**ROW, "action": "empty", "why": "its agents have room in other workers"},
        {**ROW, "worker_id": f"{WORKER[:-1]}f", "action": "keep", "why": "an agent is busy"},
    ],
}
NOTHING = {**PLAN, "workers_fewer": 0, "moves": 0, "why": "the pool needs its workers"}


def test_a_plan_shows_each_worker_and_why_and_exits_with_four(gateway, muster):
    gateway.answers["GET /pools/night/plan"] = PLAN
    code, out, _ = muster("plan", "night")
    assert code == 4
    lines = out.splitlines()
    assert lines[1].split()[2:6] == ["1", "0", "9", "empty"]
    assert "its agents have room in other workers" in lines[1]
    assert lines[-1] == f"1 worker can be emptied: {PLAN['why']}"
    assert muster("plan", "night", "--busy", "--json")[0] == 4
    assert gateway.requests[-1].query == {"busy": "true"}


def test_where_there_is_nothing_to_do_the_plan_says_why(gateway, muster):
    gateway.answers["GET /pools/night/plan"] = NOTHING
    code, out, _ = muster("plan", "night")
    assert (code, out.splitlines()[-1]) == (0, "nothing to do: the pool needs its workers")


def test_consolidation_is_asked_for_and_waited_for(gateway, muster, monkeypatch):
    monkeypatch.setattr(consolidate, "POLL_SECONDS", 0.01)
    left = [{**NOTHING, "workers": PLAN["workers"][1:]}, {**PLAN, "running": True}]
    gateway.answers["POST /pools/night/consolidate"] = (202, {**PLAN, "running": True})
    gateway.answers["GET /pools/night/plan"] = lambda _: left.pop()
    code, out, err = muster("consolidate", "night", "--reason", "night")
    assert (code, out.splitlines()[-1]) == (0, "pool night: 2 workers before, 1 now")
    assert "1 agent to move from 1 worker" in err
    assert gateway.requests[0].body == {"busy": False, "reason": "night"}
    gateway.answers["POST /pools/night/consolidate"] = NOTHING
    assert "nothing to do" in muster("consolidate", "night")[1]


# ---- simulated ------------------------------------------------------------------------------


def simulated(arrivals: list[Arrival], policy: ScalePolicy, *, moves: bool) -> Outcome:
    arguments = (policy, 5.0, 0.0, 4000.0)
    pool = ConsolidatingPool(MovePolicy(), *arguments) if moves else SimulatedPool(*arguments)
    return pool.run(Load(lambda: iter(arrivals)), lambda *_: None)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_few_that_live_long_are_moved_together_within_a_window(seed: int) -> None:
    """Two hundred at once; packed are twenty workers for the window, then those that are needed."""
    chance = random.Random(seed)
    arrivals = [(0.0, 3600.0 if chance.random() < 0.1 else 60.0) for _ in range(200)]
    needed = -(-sum(life > 60 for _, life in arrivals) // 10)
    packed = 20 * (65 + 300) + needed * (3605 - 365)
    stays = simulated(arrivals, ScalePolicy(), moves=False)
    moved = simulated(arrivals, ScalePolicy(), moves=True)
    assert stays.worker_seconds > 2 * packed
    assert moved.worker_seconds < 1.2 * packed
    assert (moved.stops, moved.waits) == (20 - needed, stays.waits)
    soon = [(at, min(life, 60 + 300 + 15)) for at, life in arrivals]
    assert simulated(soon, ScalePolicy(), moves=True).stops >= 20 - needed - 1


def test_simulated_moves_lose_no_agent_and_are_undone_where_spawns_come() -> None:
    chance, arrivals = random.Random(1), []
    for burst in range(0, 3000, 100):
        arrivals += [(burst + n / 100, chance.choice((20.0, 400.0))) for n in range(40)]
    policy = ScalePolicy(down=Behaviour(window_seconds=20.0))
    outcome = simulated(arrivals, policy, moves=True)
    assert outcome.moves > 20
    assert outcome.arrivals == len(arrivals)
    least = sum(life for _, life in arrivals) / 10
    assert least < outcome.worker_seconds < simulated(arrivals, policy, moves=False).worker_seconds
