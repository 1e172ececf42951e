"""The fallback's log, as the change-over reads and ends it. No worker runs on it meanwhile."""

from collections.abc import Mapping

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from eventstore.connection.clients import connect
from eventstore.errors import LogError
from eventstore.keys import CATALOGUE, Keys
from eventstore.language.agent_commands import HandOver, decide
from eventstore.language.agents import Agent
from eventstore.language.catalogue import Pool
from eventstore.language.events import decode_entry
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.log.replies import Outcome
from eventstore.steps.step import Origin
from muster.fallback.asking import ask, gather_bounded
from muster.fallback.outbox import FIELD, Entry, Key, Result, request_of
from projector.queries.views import Views

ORIGIN = Origin(actor="fallback")
SCAN_COUNT = 1000
CATALOGUE_MAX = 100_000


class Spec(Struct, frozen=True):
    """What `pool:{P}:spec:<agent>` holds."""

    input: msgspec.Raw = msgspec.Raw(b"{}")
    labels: dict[str, str] = {}


class FallbackLog:
    """Close it when done."""

    def __init__(self, redis_url: str) -> None:
        self.keys = Keys()
        self.client = connect(redis_url)
        self.log = Log(self.client, self.keys)
        self._reader = Reader(redis_url)
        self._catalogue = CatalogueLog(self.log, self._reader)

    async def close(self) -> None:
        await self._reader.close()
        await self.client.aclose()

    async def pools(self) -> Mapping[str, Pool]:
        """All pools that ever were, deleted ones too."""
        return (await self._catalogue.refresh()).pools

    async def pools_changed_by_clients(self) -> set[str]:
        """Pools that somebody created, changed or deleted over HTTP."""
        entries = await self._reader.range(self.keys.catalogue, count=CATALOGUE_MAX)
        events = (decode_entry(*entry) for entry in entries)
        return {event.subject for event in events if event.actor == "http"}

    async def head(self, pool: str) -> int:
        """How far a log is."""
        meta = self.keys.catalogue_meta if pool == CATALOGUE else self.keys.pool(pool, "meta")
        return int(await ask(self.client, "HGET", meta, "seq") or 0)

    async def live(self, pool: str) -> list[Agent]:
        """Agents that have not ended: first those in slots, then the others as they came."""
        members = await self.log.live(pool)
        found = await gather_bounded(self._live_agent(pool, agent_id) for agent_id in members)
        return sorted(
            (agent for agent in found if agent), key=lambda agent: (not agent.held, agent.agent_id)
        )

    async def _live_agent(self, pool: str, agent_id: str) -> Agent | None:
        agent = await self.log.agent(pool, agent_id)
        if agent is None or agent.ended:
            return None
        raw = await ask(self.client, "GET", self.keys.pool(pool, f"spec:{agent_id}"))
        spec = msgspec.json.decode(raw, type=Spec) if raw else Spec()
        return replace(agent, input=spec.input, labels=spec.labels)

    async def idempotency_keys(self, pool: str) -> dict[str, Key]:
        """The keys under which agents were asked for and that still count, by agent."""
        found: dict[str, Key] = {}
        start, cursor = self.keys.pool(pool, "operation:"), 0
        while True:
            cursor, names = await ask(self.client, "SCAN", cursor, "COUNT", SCAN_COUNT)
            ours = [name.decode() for name in names if name.startswith(start.encode())]
            await gather_bounded(self._read_key(name, start, found) for name in ours)
            if int(cursor) == 0:
                return found

    async def _read_key(self, name: str, start: str, found: dict[str, Key]) -> None:
        digest, answer = await ask(self.client, "HMGET", name, "digest", "answer")
        expires_ms = int(await ask(self.client, "PEXPIRETIME", name))
        if answer and expires_ms > 0:
            found[answer.decode()] = Key(
                operation_id=name.removeprefix(start), digest=digest.decode(), expires_ms=expires_ms
            )

    async def ended(self, views: Views, pool: str, agent_id: str) -> Agent | None:
        """An agent that ended, as far as it is needed to be told of."""
        agent = await self.log.agent(pool, agent_id)
        if agent is not None:
            return replace(agent, expires_ms=0)
        row = await views.agent(agent_id, pool)
        if row is None:
            return None
        return Agent(
            agent_id=agent_id,
            pool_name=pool,
            role_type=row.role_type,
            project_id=row.project_id,
            heartbeat_interval=row.heartbeat_interval,
            max_idle_time=row.max_idle_time,
            labels=dict(row.labels),
        )

    # ---- the outbox --------------------------------------------------------------------------

    async def outbox(self, pool: str) -> list[Entry]:
        """All entries of a pool, in the order of their agents' ids."""
        raw = await ask(self.client, "HGETALL", self.keys.pool(pool, "meta"))
        pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
        return [
            msgspec.json.decode(value, type=Entry)
            for name, value in sorted(pairs)
            if name.startswith(FIELD.encode())
        ]

    async def release(self, agent: Agent, key: Key | None, *, refused: str = "") -> Entry:
        """End an agent here, with its entry. `refused`: why it is not to be handed over."""
        result = Result.LEFT if refused else Result.OPEN
        if agent.stop:
            result, refused = Result.ENDED, "its end had been asked for"
        entry = Entry(
            pool_name=agent.pool_name,
            agent_id=agent.agent_id,
            request=request_of(agent),
            since_ms=self.log.now_ms(agent.pool_name),
            key=key,
            result=result,
            reason=refused,
        )
        step = self.log.step(agent.pool_name, ORIGIN)
        why = "not-handed-over" if refused else "handed-over"
        step.agent(agent.agent_id, agent, decide(HandOver(reason=why), agent))
        step.write("meta", f"{FIELD}{agent.agent_id}", msgspec.json.encode(entry))
        reply = await self.log.commit(step)
        if reply.outcome is not Outcome.DONE:
            raise LogError(f"agent {agent.agent_id} changes in the fallback: {reply.outcome}")
        return entry

    async def write_entry(self, entry: Entry) -> None:
        """Write an entry, or what became of it."""
        step = self.log.step(entry.pool_name, ORIGIN)
        step.write("meta", f"{FIELD}{entry.agent_id}", msgspec.json.encode(entry))
        await self.log.commit(step)
