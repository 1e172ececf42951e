"""What another policy would decide about a live pool: a pure function.

The load is the real one. The workers are those that the policy would have had since it is tried:
what it orders starts after as long as a start takes, and what it removes is gone. Which agent would
be in which worker is not known. So agents are assumed to be spread over workers as thinly as they
really are, which decides how many workers are empty. Agents that are isolated, and what hosts have
no room for, are not counted.
"""

from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from eventstore.language.scale_policy import ScalePolicy
from eventstore.language.scaling import decide_scale
from eventstore.language.scaling_state import Decision, Memory, Observation


class Shadow(Struct, frozen=True, kw_only=True):
    """The workers that a policy would have."""

    running: int = 0
    starting: tuple[tuple[int, int], ...] = ()
    """(log time of their start, workers), the soonest first."""
    memory: Memory = Memory()

    def started(self, ts: int) -> "Shadow":
        """As it is at a time, without another decision."""
        started = sum(count for at, count in self.starting if at <= ts)
        if not started:
            return self
        later = tuple(order for order in self.starting if order[0] > ts)
        return replace(self, running=self.running + started, starting=later)


class ShadowDecision(Struct, frozen=True, kw_only=True):
    """`decide_scale(observed, policy, memory)` gives `decision` again."""

    decision: Decision
    observed: Observation
    memory: Memory


def decide_shadow(
    seen: Observation, policy: ScalePolicy, shadow: Shadow, *, thinness: float = 1.0
) -> tuple[ShadowDecision, Shadow]:
    """Decide as if the pool had the workers of `shadow`; also returns those that it has then.

    `seen`: the real pool. `thinness`: on how many times as many workers as they need its agents
    are; at least 1.
    """
    shadow = shadow.started(seen.ts)
    observed = _observed(seen, policy, shadow, thinness)
    decision, memory = decide_scale(observed, policy, shadow.memory)
    starting = shadow.starting
    if decision.order:
        ready = seen.ts + int(memory.start_seconds * 1000)
        starting = tuple(sorted((*starting, (ready, decision.order))))
    after = Shadow(running=shadow.running - decision.remove, starting=starting, memory=memory)
    return ShadowDecision(decision=decision, observed=observed, memory=shadow.memory), after


def _observed(
    seen: Observation, policy: ScalePolicy, shadow: Shadow, thinness: float
) -> Observation:
    workers = shadow.running + sum(count for _, count in shadow.starting)
    load = seen.held + seen.waiting
    held = min(load, shadow.running * policy.slots)
    occupied = min(ceil(ceil(held / policy.slots) * thinness), shadow.running, held)
    return replace(
        seen,
        held=held,
        waiting=load - held,
        capacity=workers * policy.slots,
        workers=workers,
        empty=shadow.running - occupied,
        additional=0,
        host_room=None,
    )
