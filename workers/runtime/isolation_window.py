"""How long an agent that runs alone has to behave before others may come in beside it.

The time runs from its start in this worker, by this process's clock. A failure begins it anew, with
the next incarnation; the death of the worker is counted against the agent by whoever reaps it.
"""

import time

from eventstore.language.agents import Agent
from eventstore.language.pool_config import PoolConfig


class IsolationWindow:
    """Of one incarnation, from now on."""

    def __init__(self, config: PoolConfig) -> None:
        self._ends_at = time.monotonic() + config.suspicion_window_seconds

    def remaining(self, agent: Agent) -> float | None:
        """How long it still lasts, 0 once it is over; None for an agent that may share a worker."""
        return max(self._ends_at - time.monotonic(), 0.0) if agent.alone else None
