"""A pool for tests of `decide_scale`."""

from eventstore.language.scale_policy import ScalePolicy
from eventstore.language.scaling import decide_scale
from eventstore.language.scaling_state import Decision, Memory, Observation

START_MS = 1_794_999_960_000
"""The beginning of a minute."""


def seen(load: int, workers: int, *, seconds: float = 0.0, **more: int) -> Observation:
    """A pool of ten slots a worker, with its agents in as few workers as possible."""
    held = min(load, workers * 10)
    empty = workers - -(-held // 10)
    return Observation(
        ts=START_MS + int(seconds * 1000),
        held=held,
        waiting=load - held,
        capacity=workers * 10,
        workers=workers,
        empty=empty,
        **more,  # type: ignore[arg-type]  # none of them is the bool
    )


def decide(observed: Observation, policy: ScalePolicy, memory: Memory | None = None) -> Decision:
    return decide_scale(observed, policy, memory or Memory())[0]


class Pool:
    """A pool whose workers start at once."""

    def __init__(self, policy: ScalePolicy) -> None:
        self.policy, self.memory, self.workers, self.seconds = policy, Memory(), 0, 0.0

    def observe(self, load: int, *, after: float = 1.0) -> Decision:
        self.seconds += after
        observed = seen(load, self.workers, seconds=self.seconds)
        decision, self.memory = decide_scale(observed, self.policy, self.memory)
        self.workers = decision.desired
        return decision
