"""How long an isolated agent has to behave before it shares its worker.

The time runs from its start in this worker, by this process's clock. A failure starts it again,
with the next incarnation; the death of the worker is the agent's own failure, which its reaper
records.
"""

import time

from eventstore.language.agents import Agent
from eventstore.language.pool_config import PoolConfig


class IsolationWindow:
    """Of one incarnation, from now on."""

    def __init__(self, config: PoolConfig) -> None:
        self._ends_at = time.monotonic() + config.isolation_seconds

    def remaining(self, agent: Agent) -> float | None:
        """How long it still lasts, 0 once it is over; None for an agent that is not isolated."""
        return max(self._ends_at - time.monotonic(), 0.0) if agent.alone else None
