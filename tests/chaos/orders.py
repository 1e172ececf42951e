"""The commands of an operator: on pools, workers, and agents whose state is lost."""

from random import Random

from tests.chaos.asking import API, Answer
from tests.chaos.commands import Command, Desk, PoolCommand

OURS = "chaos-"
"""How the reasons begin that are given."""
QUICK_SECONDS = 1.0
LEADERS = frozenset({"consolidation", "replaced"})
"""Why leaders cordon workers for a while."""
STATE_LOST = "state-lost"
"""Why an agent waits for an operator."""


class PausePool(PoolCommand):
    """Let a pool have the workers that it has."""

    kind = "change_pool"

    async def ask(self) -> Answer:
        path = f"{API}/pools/{self.pool}/pause"
        body = {"reason": f"{OURS}{self.number}"}
        return await self.desk.ask(self.random, "POST", path, body, headers=self.headers)


class ReplacePool(PoolCommand):
    """Replace the workers of a pool; `config` says how."""

    kind = "replace_pool"

    async def ask(self) -> Answer:
        path = f"{API}/pools/{self.pool}/replace"
        body = {"reason": f"{OURS}{self.number}", **self.config}
        return await self.desk.ask(self.random, "POST", path, body, headers=self.headers)


class WorkerCommand(Command):
    """Cordon, uncordon or drain a worker: asked for once."""

    def __init__(
        self, desk: Desk, random: Random, pool: str, number: str, kind: str, worker_id: str
    ) -> None:
        super().__init__(desk, random, pool, number)
        self.kind, self.worker_id = kind, worker_id
        self.repeats, self.level = False, ""
        self.deadline_seconds = self._asked_at = 0.0

    def learn(self, answer: Answer) -> None:
        """What was to be cordoned is not to be uncordoned by a leader."""
        row = answer.body if isinstance(answer.body, dict) else {}
        if self.kind == "cordon" and row.get("cordoned") in LEADERS and not answer.stale:
            drains = row.get("cordon_kept") or row["status"] != "active"
            quick = self.desk.now() - self._asked_at < QUICK_SECONDS
            if quick and not drains:  # else another command may have come in between
                self.desk.offences.append(f"{self.worker_id} is cordoned for a while only: {row}")

    async def ask(self) -> Answer:
        self._asked_at = self.desk.now()
        path = f"{API}/workers/{self.worker_id}/{self.kind}"
        body: dict[str, object] = {"reason": f"{OURS}{self.number}"}
        if self.deadline_seconds:
            body["deadline_seconds"] = self.deadline_seconds
        return await self.desk.ask(self.random, "POST", path, body, headers=self.headers)


class DiscardState(Command):
    """Start an agent without the state that is lost."""

    kind = "restart"

    def __init__(self, desk: Desk, random: Random, pool: str, number: str, agent_id: str) -> None:
        super().__init__(desk, random, pool, number)
        self.agent_id = agent_id
        self.key = f"command-{number}"

    async def ask(self) -> Answer:
        path = f"{API}/{self.agent_id}/restart?pool_name={self.pool}"
        body = {"discard_state": True}
        return await self.desk.ask(self.random, "POST", path, body, headers=self.headers)
