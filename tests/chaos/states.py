"""States that were deleted on purpose, and what became of the agents that had saved them."""

from collections.abc import Iterator

from tests.chaos.views import select


class States:
    """What `states_deleted` has done."""

    def __init__(self) -> None:
        self.deleted: set[str] = set()
        """The agents whose state was deleted from Redis."""
        self.copied: set[str] = set()
        """Those of which the database had the last state, and has it still."""

    def judge(self, url: str, *, recovered: bool) -> Iterator[str]:
        """What is wrong at rest. `recovered`: logs were, so that states may be lost with them."""
        if recovered:
            return
        query = "SELECT DISTINCT subject FROM {}events WHERE type = 'agent.state_lost'"
        for (agent_id,) in select(url, query):
            if agent_id not in self.deleted:
                yield f"agent {agent_id} lost its state, which was not deleted"
        for (agent_id,) in select(url, "SELECT agent_id FROM {}agents WHERE state_lost"):
            if agent_id in self.copied:
                yield f"agent {agent_id} did not get the state back that the database has"
