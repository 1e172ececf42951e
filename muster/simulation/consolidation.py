"""A simulated pool whose leader moves agents, so that fewer workers are needed.

`plan_moves` plans, as in a real pool. No agent is ever busy, and a move takes no time.
"""

from typing import Any, Final

from eventstore.language.consolidation import (
    HOUR_MS,
    Fleet,
    MoveMemory,
    MovePolicy,
    Occupant,
    Occupied,
    plan_moves,
)
from muster.simulation.pool import SimulatedPool

PLAN_MS: Final = 6_000
"""Between two plans, unless agents wait: a long history would take long with one at each poll."""


class ConsolidatingPool(SimulatedPool):
    """One pool that begins empty; the other arguments are those of `SimulatedPool`."""

    def __init__(self, moves: MovePolicy, *args: Any) -> None:
        super().__init__(*args)
        self._move_policy = moves
        self._move_memory = MoveMemory()
        self._asked: list[tuple[str, int]] = []
        self._named = 0
        self._planned_ms = 0

    def _consolidate(self, now: float, surplus: int) -> None:
        ts = int(now * 1000)
        pause_ms = 0 if self._waiting else PLAN_MS
        if not (surplus or self._emptying) or ts < self._planned_ms + pause_ms:
            return
        self._planned_ms = ts
        self._asked = [one for one in self._asked if ts - one[1] < HOUR_MS]
        for worker, agents in self._emptying.items():
            self._emptying[worker] = [it for it in agents if self._moving.get(it) == worker]
        fleet = Fleet(
            ts=ts,
            workers=tuple(map(self._occupied, self._agents)),
            surplus=surplus,
            waiting=len(self._waiting),
            asked=tuple(self._asked),
        )
        plan, self._move_memory = plan_moves(fleet, self._move_policy, self._move_memory)
        for name in plan.uncordon:
            self._uncordon(int(name), now)
        for name in plan.cordon:
            self._cordon(int(name))
        for _, name in plan.moves:
            self._move(int(name))
            self._asked.append((name, ts))

    def _occupied(self, worker: int) -> Occupied:
        agents, named = self._agents[worker], self._emptying.get(worker)
        return Occupied(
            worker_id=f"{worker:09}",
            agents=agents,
            free=self._slots - agents if named is None else 0,
            emptying=named is not None,
            occupants=tuple(Occupant(agent_id=str(it)) for it in named or ()),
        )

    def _cordon(self, worker: int) -> None:
        del self._by_agents[self._agents[worker]][worker]
        for index, (at, holder) in enumerate(self._ends):  # their order stays as it is
            if holder == worker:
                self._named += 1
                self._ends[index] = at, -self._named
                self._moving[-self._named] = worker
        self._emptying[worker] = [it for it, holder in self._moving.items() if holder == worker]

    def _uncordon(self, worker: int, now: float) -> None:
        del self._emptying[worker]
        while self._waiting and self._agents[worker] < self._slots:
            self._claim(worker, now)
            self._agents[worker] += 1
            self._held += 1
        self._by_agents[self._agents[worker]][worker] = None

    def _move(self, agent: int) -> None:
        """To the fullest worker that has room."""
        agents = max(n for n in range(1, self._slots) if self._by_agents[n])
        worker, _ = self._by_agents[agents].popitem()
        self._by_agents[agents + 1][worker] = None
        self._agents[worker] += 1
        self._agents[self._moving[agent]] -= 1
        self._moving[agent] = worker
        self.outcome.moves += 1
