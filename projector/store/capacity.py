"""What a pool has room for, and so what its pending agents wait for."""

from typing import Final

from msgspec import Struct

from eventstore.language.agents import Agent, Status

WAITS_FOR_CLAIM: Final = "waiting to be claimed"
WAITS_FOR_ISOLATION: Final = "needs a worker of its own"


class PoolCapacity(Struct, frozen=True):
    """The numbers that say what the pending agents of a pool wait for."""

    free_slots: int = 0
    workers: int = 0
    ordered_workers: int = 0
    max_workers: int = 0
    isolated_workers: int = 0
    """Workers that each have one isolated agent."""
    cordoned_workers: int = 0

    def reason_of(self, agent: Agent) -> str:
        """What a pending agent waits for, and in brackets why it was requeued."""
        if agent.status is not Status.PENDING or agent.state_lost:
            return agent.reason
        waiting_for = self._waiting_for(isolated=agent.alone)
        return f"{waiting_for} ({agent.reason})" if agent.reason else waiting_for

    def _waiting_for(self, *, isolated: bool) -> str:
        is_full = self.workers >= self.max_workers
        if isolated:
            return WAITS_FOR_ISOLATION + (f"; {self._full_reason()}" if is_full else "")
        if self.free_slots <= 0 and is_full:
            return self._full_reason()
        if self.free_slots <= 0 and self.ordered_workers:
            return "a worker is starting"
        return WAITS_FOR_CLAIM

    def _full_reason(self) -> str:
        isolated, cordoned = self.isolated_workers, self.cordoned_workers
        parts = [f"pool is at its maximum of {self.max_workers} workers"]
        parts += [f"{isolated} of them for one agent alone"] if isolated else []
        parts += [f"{cordoned} of them cordoned"] if cordoned else []
        return ", ".join(parts)
