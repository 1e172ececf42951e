"""Bugs that can be planted into what operators ask for, and what is moved, placed and saved."""

import asyncio
from typing import Any, Final

from msgspec.structs import replace

MANY: Final = 1_000
POLL_SECONDS: Final = 0.05


def deadlines_ignored() -> None:
    """A worker that is to drain at a deadline drains at once."""
    from workers.supervisor import draining

    vars(draining)["is_drain_due"] = lambda observed, _: observed.worker.drain_ms > 0


def replaced_at_once() -> None:
    """All workers of a pool are replaced at the same time."""
    from workers.supervisor import replacing

    plan = replacing.plan

    def hasty(survey: Any, replacement: Any, *more: Any) -> Any:
        return plan(survey, replace(replacement, max_unavailable=MANY), *more)

    vars(replacing)["plan"] = hasty


def busy_moved() -> None:
    """An agent that is to move does so as soon as it is busy."""
    from workers.runtime.slots import Slots

    def ruthless(self: Slots, agent_id: str, **_: Any) -> None:
        run = self.runs.get(agent_id)
        if run is not None and run.busy:
            run.request_move(busy=True)
        elif run is not None:
            asyncio.get_running_loop().call_later(POLL_SECONDS, ruthless, self, agent_id)

    Slots.move = ruthless  # type: ignore[method-assign]


def moves_unlimited() -> None:
    """A consolidation moves as many agents as it can, as often as it can."""
    from workers.supervisor import consolidator

    plan = vars(consolidator)["plan_moves"]

    def tireless(fleet: Any, policy: Any, memory: Any) -> Any:
        return plan(fleet, replace(policy, per_minute=MANY, per_agent_hour=MANY), memory)

    vars(consolidator)["plan_moves"] = tireless


def caps_ignored() -> None:
    """The placer places whatever waits."""
    from eventstore.language.placement import _Queue

    _Queue._cap_of = lambda *_: None  # type: ignore[method-assign]


def pauses_ignored() -> None:
    """A paused pool is scaled like any other."""
    from workers.supervisor import scaler

    decide = vars(scaler)["decide_scale"]

    def restless(seen: Any, policy: Any, memory: Any) -> Any:
        return decide(seen, replace(policy, paused=False), memory)

    vars(scaler)["decide_scale"] = restless


def saves_not_stored() -> None:
    """`context.save()` returns, and nothing is stored."""
    from workers.runtime import saved_state

    async def forgetful(_: Any, agent: Any) -> None:
        await saved_state._state_of(agent)

    saved_state.SavedState.save = forgetful  # type: ignore[assignment,method-assign]


def states_not_restored() -> None:
    """An agent that has saved a state starts without it."""
    from workers.runtime.saved_state import SavedState

    async def nothing(*_: Any) -> None:
        return None

    SavedState.read = nothing  # type: ignore[assignment,method-assign]
