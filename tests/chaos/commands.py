"""One command of the client, from its first request to its end in the journal.

A command with an unknown outcome is repeated with the same key until an answer decides it, as
Muster asks its clients to do. Some spawns have no key and give up instead; they stay unknown,
unless the answer names a key to repeat them with.
"""

import asyncio
import time
from collections.abc import Callable
from random import Random
from typing import Any

from tests.chaos.asking import API, Answer, Meaning, ask
from tests.chaos.configuration import role_of
from tests.chaos.journal import Entry, Journal, operation_id

REPEAT_SECONDS = (0.3, 1.0)
LEVEL_SHARE = 0.25
"""Of the commands: these ask for a durability."""


class Desk:
    """What all commands of a client share."""

    def __init__(
        self,
        gateways: list[str],
        journal: Journal,
        now: Callable[[], float],
        levels: tuple[str, ...] = (),
    ) -> None:
        self.gateways = gateways
        self.levels = levels
        """The durabilities that this system can give."""
        self.journal = journal
        self.now = now
        self.offences: list[str] = []
        """Answers that no fault excuses."""
        self.missing: dict[str, str] = {}
        """Agents that were acknowledged and then not found: excused only if named as lost."""
        self.positions: dict[str, str] = {}
        """The log position by acknowledged agent: a gateway that gets it must know the agent."""
        self.closing = False
        """Once set, what is unknown is asked for a last few times."""
        self.answers: dict[str, int] = {}

    async def ask(self, random: Random, method: str, path: str, *args: Any, **more: Any) -> Answer:
        """Send the request to one of the gateways, and check the answer."""
        answer = await ask(random.choice(self.gateways), method, path, *args, **more)
        self.answers[answer.said] = self.answers.get(answer.said, 0) + 1
        if answer.status == 500 or (answer.status == 400 and answer.kind == "invalid-request"):
            self.offences.append(f"{method} {path}: {answer.said}: {answer.body}")
        return answer


class Command:
    """The common part: ask until it is decided."""

    kind = ""

    def __init__(self, desk: Desk, random: Random, pool: str, number: str) -> None:
        self.desk = desk
        self.random = random
        self.pool = pool
        self.number = number
        self.agent_id = self.worker_id = ""
        self.key = ""
        self.repeats = True
        self.wait = random.choice((0, 0, 1, 3))
        levels = desk.levels if random.random() < LEVEL_SHARE else ()
        self.level = random.choice(levels) if levels else ""
        self.ended_at = 0.0

    async def ask(self) -> Answer:
        raise NotImplementedError

    async def carry_out(self) -> Entry:
        """Send it, repeat it where needed, and note the outcome."""
        asked = 0
        unknown = False
        while True:
            answer = await self.ask()
            asked += 1
            meaning = answer.meaning
            unknown = unknown or meaning is Meaning.UNKNOWN
            self.learn(answer)
            if meaning is Meaning.ACCEPTED:
                self._check_level(answer)
                return self._note("acknowledged", answer, recovered=unknown)
            if not unknown:
                return self._note("refused", answer)
            if not self.repeats or self.desk.closing:
                return self._note("unknown", answer)
            await asyncio.sleep(self.random.uniform(*REPEAT_SECONDS))

    def _check_level(self, answer: Answer) -> None:
        """A success status means the requested durability: a client need not check further."""
        if self.level and answer.status in (200, 201) and answer.level != self.level:
            said = f"{self.kind} chaos-{self.number} asked for {self.level}"
            self.desk.offences.append(f"{said}: {answer.status} as {answer.level or 'nothing'}")

    def learn(self, answer: Answer) -> None:
        """Note the agent and position of an answer."""

    @property
    def headers(self) -> dict[str, str]:
        prefer = f"wait={self.wait}" if self.wait else "respond-async"
        said = {"Prefer": prefer, "X-Request-Id": f"chaos-{self.number}"}
        if self.level:
            said["Muster-Durability"] = self.level
        return {**said, "Idempotency-Key": self.key} if self.key else said

    def _note(self, status: Any, answer: Answer, *, recovered: bool = False) -> Entry:
        entry = Entry(
            kind=self.kind,
            pool=self.pool,
            status=status,
            agent_id=self.agent_id,
            worker_id=self.worker_id,
            operation_id=operation_id(self.key) if self.key else "",
            correlation_id=f"chaos-{self.number}",
            ended_at=self.ended_at,
            level=answer.level if status == "acknowledged" else "",
            seq=answer.seq(self.pool) if (status, self.kind) == ("acknowledged", "spawn") else 0,
            recovered=recovered,
            said=answer.said,
            at=round(self.desk.now(), 3),
        )
        self.desk.journal.note(entry)
        return entry


class Spawn(Command):
    """Ask for an agent. `keyed`: with an `Idempotency-Key` from the start."""

    kind = "spawn"

    def __init__(
        self, desk: Desk, random: Random, pool: str, number: str, *, keyed: bool, **wanted: Any
    ) -> None:
        super().__init__(desk, random, pool, number)
        self.key = f"command-{number}" if keyed else ""
        self.repeats = keyed
        self.follows = random.random() < 0.5
        """Whether it repeats with a key that an answer names."""
        self.body = {
            "project_id": "chaos",
            "role_type": role_of(pool),
            "pool_name": pool,
            "max_idle_time": None,
            "heartbeat_interval": 0.5,
            **wanted,
            "labels": {"command": number, **wanted.get("labels", {})},
        }

    async def ask(self) -> Answer:
        path = f"{API}/spawn"
        return await self.desk.ask(self.random, "POST", path, self.body, headers=self.headers)

    def _check_level(self, answer: Answer) -> None:
        """A success status means the requested durability: a client need not check further."""
        if self.level and answer.status in (200, 201) and answer.level != self.level:
            said = f"{self.kind} chaos-{self.number} asked for {self.level}"
            self.desk.offences.append(f"{said}: {answer.status} as {answer.level or 'nothing'}")

    def learn(self, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, dict) else {}
        if answer.meaning is Meaning.ACCEPTED and body.get("agent_id"):
            self.desk.positions[body["agent_id"]] = answer.position
        if answer.meaning is Meaning.ACCEPTED or (answer.meaning is Meaning.UNKNOWN and body):
            self.agent_id = body.get("agent_id") or self.agent_id
        if not self.key and self.follows and body.get("idempotency_key"):
            self.key, self.repeats = body["idempotency_key"], True


class Terminate(Command):
    """Ask for an agent's end. An agent that was acknowledged is always found."""

    kind = "terminate"

    def __init__(self, desk: Desk, random: Random, pool: str, number: str, agent_id: str) -> None:
        super().__init__(desk, random, pool, number)
        self.agent_id = agent_id
        self.graceful = random.random() < 0.7

    async def ask(self) -> Answer:
        body = {"pool_name": self.pool, "agent_id": self.agent_id, "graceful": self.graceful}
        answer = await self.desk.ask(
            self.random, "POST", f"{API}/terminate", body, headers=self.headers
        )
        if answer.status == 404:
            self.desk.missing[self.agent_id] = f"terminate {self.agent_id}: {answer.said}"
        if answer.status == 200:
            self.ended_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        return answer


class PoolCommand(Command):
    """One on a pool, asked for once: what became of it is not known by a key."""

    def __init__(
        self,
        desk: Desk,
        random: Random,
        pool: str,
        number: str,
        config: dict[str, object] | None = None,
    ) -> None:
        super().__init__(desk, random, pool, number)
        self.repeats = False
        self.config = config or {}


class ChangePool(PoolCommand):
    """Change some scaling settings of a pool."""

    kind = "change_pool"

    async def ask(self) -> Answer:
        path = f"{API}/pools/{self.pool}"
        body = {"config": self.config}
        return await self.desk.ask(self.random, "PATCH", path, body, headers=self.headers)


class CreatePool(PoolCommand):
    """Create a pool; it may be there already."""

    kind = "create_pool"

    async def ask(self) -> Answer:
        body = {"pool_name": self.pool, "role_type": role_of(self.pool), "config": self.config}
        return await self.desk.ask(self.random, "POST", f"{API}/pools", body, headers=self.headers)


class DeletePool(PoolCommand):
    """Delete a pool with its agents."""

    kind = "delete_pool"

    async def ask(self) -> Answer:
        path = f"{API}/pools/{self.pool}?force=true"
        return await self.desk.ask(self.random, "DELETE", path, headers=self.headers)
