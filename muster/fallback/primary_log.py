"""The real log, as the change-over asks it for agents: each once, under an id of its own.

A step that asks is known by the fallback's and the agent's id and remembered for a month, so asking
again answers what the first did. The client's key goes with it in the same step; where the real log
knows that key already for another agent, the request was served there before, and is not again.
"""

from collections.abc import Collection
from typing import Final

from msgspec.structs import replace

from eventstore.connection.clients import connect
from eventstore.errors import LogError, OutcomeUnknown
from eventstore.keys import Keys
from eventstore.language import agent_commands
from eventstore.language.agent_commands import Spawn
from eventstore.language.agents import Agent
from eventstore.language.catalogue import Pool
from eventstore.language.events import AgentTerminated
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.log.replies import Outcome, Reply
from eventstore.retention import Retention
from eventstore.steps.step import Origin, Step
from muster.fallback.asking import ask
from muster.fallback.outbox import KEEP_MS, Entry, Key, Result

ENDED: Final = "ended-in-fallback"
REMEMBERED_MS: Final = KEEP_MS - 86_400_000
"""An open entry older than this may have been forgotten by the real log."""


class PrimaryLog:
    """`log_id`: the fallback's. `roles`: those that this host can run. Close it when done."""

    def __init__(
        self,
        redis_url: str,
        key_prefix: str,
        log_id: str,
        roles: Collection[str],
        retention: Retention,
    ) -> None:
        self._log_id = log_id
        self._roles = roles
        self._keys = Keys(key_prefix)
        self._client = connect(redis_url)
        self._log = Log(self._client, self._keys, retention=retention)
        self._reader = Reader(redis_url)
        self._catalogue = CatalogueLog(self._log, self._reader)
        self._origin = Origin(actor="fallback", correlation_id=log_id)
        self._free_backlog: dict[str, int] = {}

    async def start(self) -> None:
        """Read the catalogue. Raises `LogError`."""
        await self._catalogue.refresh()

    async def close(self) -> None:
        await self._reader.close()
        await self._client.aclose()

    def pool(self, name: str) -> Pool | None:
        return self._catalogue.state.live_pools().get(name)

    # ---- before an agent is given ------------------------------------------------------------

    async def read_capacity(self, name: str) -> None:
        """See how many more spawns a pool takes. Raises `LogError`."""
        pool = self.pool(name)
        if pool is None:
            return
        meta = self._keys.pool(name, "meta")
        closed, waiting = await ask(self._client, "HMGET", meta, "closed", "waiting")
        gone = closed is not None and int(closed) == pool.created_seq
        self._free_backlog[name] = (
            0 if gone else max(pool.config.backlog_limit - int(waiting or 0), 0)
        )

    async def refusal(self, agent: Agent, key: Key | None) -> str:
        """Why the real log would not take an agent; empty if it would, and its place is kept."""
        name, pool = agent.pool_name, self.pool(agent.pool_name)
        if pool is None:
            return f"the real log has no pool {name!r}"
        if pool.role_type != agent.role_type:
            return f"pool {name!r} of the real log is for role {pool.role_type!r}"
        if agent.role_type not in self._roles:
            return f"role {agent.role_type!r} is not declared"
        if not self._free_backlog[name]:
            limit = pool.config.backlog_limit
            return f"pool {name!r} takes no more: it is being deleted, or {limit} spawns wait"
        self._free_backlog[name] -= 1
        other = await self._other_agent(name, key, agent.agent_id)
        if other:
            self._free_backlog[name] += 1
            return f"its Idempotency-Key is known in the real log, for agent {other}"
        return ""

    async def _other_agent(self, pool: str, key: Key | None, agent_id: str) -> str:
        """Another agent that the real log has for this key."""
        if key is None:
            return ""
        operation = self._keys.pool(pool, f"operation:{key.operation_id}")
        answer: bytes | None = await ask(self._client, "HGET", operation, "answer")
        found = answer.decode() if answer else ""
        return found if found != agent_id else ""

    # ---- once it was given -------------------------------------------------------------------

    async def submit(self, entry: Entry, now_ms: int) -> Entry:
        """Ask for an agent that was given; the entry with its result. Safe to repeat."""
        if now_ms - entry.since_ms > REMEMBERED_MS:
            return _left(entry, "whether it was handed over is not known any more")
        pool = self.pool(entry.pool_name)
        if pool is None:
            return _left(entry, f"the real log has no pool {entry.pool_name!r}")
        reply = await self._commit(self._step(entry, pool, now_ms))
        match reply.outcome:
            case Outcome.DONE | Outcome.CONFLICT | Outcome.FENCED:  # the latter: it is there
                return _done(entry)
            case Outcome.KNOWN:
                answer = bytes(reply.rest[1]).decode()
                if answer == entry.agent_id:
                    return _done(entry)
                what = "its Idempotency-Key is known in the real log, for agent"
                return _left(entry, f"{what} {answer}")
            case Outcome.FULL:
                return _left(entry, f"pool {entry.pool_name!r} takes no more spawns")
            case Outcome.CLOSED:
                return _left(entry, f"pool {entry.pool_name!r} is being deleted")
            case other:
                raise LogError(f"a hand-over ended as {other}")

    def _step(self, entry: Entry, pool: Pool, now_ms: int) -> Step:
        own, key = entry.operation_id(self._log_id), entry.key
        left_ms = max(key.expires_ms - now_ms, 0) if key else 0
        request = replace(
            entry.request,
            operation_id=key.operation_id if key and left_ms else own,
            digest=entry.digest,
            operation_ms=left_ms or KEEP_MS,
        )
        step = self._log.step(entry.pool_name, self._origin)
        step.check("operation", own)
        if key is not None:
            step.check("operation", key.operation_id)
        bodies = agent_commands.decide(Spawn(request=request), None)
        if entry.alive:
            step.check("open", pool.created_seq)
            step.check("backlog", pool.config.backlog_limit)
        else:
            bodies = (*bodies, AgentTerminated(reason=ENDED))
        step.agent(entry.agent_id, None, bodies)
        step.write("operation", own, entry.digest, entry.agent_id, KEEP_MS)
        if key is not None and left_ms:
            step.write("operation", key.operation_id, key.digest, entry.agent_id, left_ms)
        return step

    async def _commit(self, step: Step) -> Reply:
        """Once more where no reply came: the step's own operation id makes that safe."""
        try:
            return await self._log.commit(step, adds_load=True)
        except OutcomeUnknown:
            return await self._log.commit(step, adds_load=True)


def _done(entry: Entry) -> Entry:
    return replace(entry, result=Result.HANDED_OVER if entry.alive else Result.RECORDED)


def _left(entry: Entry, reason: str) -> Entry:
    return replace(entry, result=Result.LEFT, reason=reason)
