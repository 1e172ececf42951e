"""The real log, as a handover submits agents to it: each once, under an id of its own.

A submit is known by the fallback's and the agent's id and remembered for a month, so that a
repeated one is answered with what the first did. The client's key is recorded in the same step;
where the real log knows that key for another agent, the request was served there before.

It must be the log that was seen, and intact. One that has lost writes will be rebuilt from its
archive, and what it accepted meanwhile would be lost with it. So what is handed over waits until it
was recovered.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final

from msgspec.structs import replace

from eventstore.connection.clients import Client
from eventstore.errors import ConfigurationError, LogError, OutcomeUnknown
from eventstore.keys import CATALOGUE, Keys
from eventstore.language import agent_commands
from eventstore.language.agent_commands import Spawn
from eventstore.language.catalogue import Pool
from eventstore.language.events import AgentSaved, AgentStateLost, AgentTerminated
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.log.replies import LogHead, Outcome
from eventstore.steps import clauses
from eventstore.steps.step import Origin, Step
from muster.fallback import last_seen
from muster.fallback.inventory import Entry, Result
from muster.settings.addresses import redacted
from muster.settings.settings import Settings
from projector.queries.views import DatabaseError, reason
from projector.recovery.damage_scan import archive_exists
from projector.recovery.recovery import RecoveryOptions, examine

ENDED: Final = "ended-in-fallback"
OPERATION_MS: Final = 30 * 86_400_000
"""How long the real log remembers a submit."""
REPEATABLE_MS: Final = OPERATION_MS - 86_400_000
"""An entry that was first submitted longer ago may have been forgotten by the real log."""


class PrimaryLog:
    """`log_id`: the fallback's; `read_state`: what an agent saved there. Close it when done.

    An agent that has saved, and of which that is lost, is to wait for an operator.
    """

    def __init__(
        self,
        settings: Settings,
        log_id: str,
        read_state: Callable[[Entry], bytes | None] = lambda _: None,
    ) -> None:
        self._log_id, self._read_state = log_id, read_state
        self._roles = settings.roles
        self._client = Client(settings.redis_url)
        keys = Keys(settings.key_prefix)
        self._log = Log(self._client, keys, retention=settings.retention)
        self._reader = Reader(settings.redis_url)
        self._catalogue = CatalogueLog(self._log, self._reader)
        self._origin = Origin(actor="fallback", correlation_id=log_id)

    async def start(self) -> None:
        """Read the catalogue. Raises `LogError`."""
        await self._catalogue.refresh()

    async def close(self) -> None:
        await self._reader.close()
        await self._client.aclose()

    def pool(self, name: str) -> Pool | None:
        return self._catalogue.state.live_pool(name)

    async def submit(self, entry: Entry) -> Entry:
        """The entry with its result. Safe to repeat. Raises `LogError`."""
        if reason := await self._submit(entry):
            return replace(entry, result=Result.REFUSED, reason=reason)
        return replace(entry, result=Result.HANDED_OVER if entry.alive else Result.RECORDED)

    async def _submit(self, entry: Entry) -> str:
        """Why the real log does not have it; empty if it has."""
        name, role, now_ms = entry.pool_name, entry.request.role_type, int(time.time() * 1000)
        pool = self.pool(name)
        if now_ms - entry.since_ms > REPEATABLE_MS:
            return "whether it was handed over is not known any more"
        if pool is None:
            return f"the real log has no pool {name!r}"
        if pool.role_type != role:
            return f"pool {name!r} of the real log is for role {pool.role_type!r}"
        if role not in self._roles:
            return f"role {role!r} is not declared"
        step = self._step(entry, pool, now_ms)
        try:
            reply = await self._log.commit(step, adds_load=True)
        except OutcomeUnknown:  # the step's own operation id makes a second attempt safe
            reply = await self._log.commit(step, adds_load=True)
        match reply.outcome:
            case Outcome.DONE | Outcome.CONFLICT | Outcome.FENCED:  # the latter: it is there
                return ""
            case Outcome.KNOWN:
                answer = bytes(reply.rest[1]).decode()
                what = "its Idempotency-Key is known in the real log, for agent"
                return "" if answer == entry.agent_id else f"{what} {answer}"
            case Outcome.FULL:
                return f"pool {name!r} takes no more spawns"
            case Outcome.CLOSED:
                return f"pool {name!r} is being deleted"
            case other:
                raise LogError(f"a handover ended as {other}")

    def _step(self, entry: Entry, pool: Pool, now_ms: int) -> Step:
        own = f"fallback:{self._log_id}:{entry.agent_id}"
        operations = {own: OPERATION_MS}
        request = replace(entry.request, operation_id=own, operation_ms=OPERATION_MS)
        if (left_ms := entry.key_expires_ms - now_ms) > 0:
            request = replace(entry.request, operation_ms=left_ms)
            operations[request.operation_id] = left_ms
        step = self._log.step(entry.pool_name, self._origin)
        for name in operations:
            step.check(clauses.OperationNew(name))
        bodies = agent_commands.decide(Spawn(request=request), None)
        if entry.alive:
            step.check(clauses.PoolIs(pool.created_seq, takes_spawns=True))
            step.check(clauses.BacklogBelow(pool.config.backlog_limit))
        else:
            bodies = (*bodies, AgentTerminated(reason=ENDED))
        state = self._read_state(entry) if entry.alive else None
        if state is not None:
            saved = AgentSaved(save=entry.save, size=len(state), sha256=entry.sha256)
            bodies = (*bodies, saved)
        elif entry.alive and entry.sha256:
            bodies = (*bodies, AgentStateLost(save=entry.save, sha256=entry.sha256))
        step.agent(entry.agent_id, None, bodies, state=state)
        for name, ttl_ms in operations.items():
            step.write(clauses.RecordOperation(name, request.digest, entry.agent_id, ttl_ms))
        return step


async def require_known_log(settings: Settings) -> None:
    """Raises `ConfigurationError` where Redis is empty, was not, and what it had is not archived.

    To be called before anything is written there: it would otherwise look like a first start.
    """
    last_position = last_seen.read(settings).position
    if last_position == (0, 0) or (await _head(settings)).generation:
        return
    try:
        if await archive_exists(settings.views_url):
            return
    except (DatabaseError, OSError):  # then it may be
        return
    raise ConfigurationError(
        f"{redacted(settings.redis_url)} is empty, but its catalogue was seen at generation"
        f" {last_position[0]}, seq {last_position[1]}, and nothing of it is archived."
        f" The fallback's log stays in {settings.data_dir}. If that Redis is new on purpose, and is"
        f" to run the fallback's agents, remove {settings.data_dir / last_seen.NAME}"
    )


async def damage(settings: Settings) -> Mapping[str, str]:
    """Which logs are to be recovered first, and why; under `CATALOGUE` what concerns all of them.

    Raises `LogError` where Redis does not answer.
    """
    head = await _head(settings)
    last_position = last_seen.read(settings).position
    if (head.generation, head.seq) < last_position:
        return {
            CATALOGUE: f"the catalogue is at generation {head.generation}, seq {head.seq}, but"
            f" {last_position[0]}, {last_position[1]} was seen: Redis has lost writes"
        }
    options = RecoveryOptions(
        redis_url=settings.redis_url,
        database_url=settings.views_url,
        key_prefix=settings.key_prefix,
    )
    try:
        return await examine(options)
    except (DatabaseError, OSError) as error:
        unreachable = f"the database does not answer ({reason(error)})"
        return {CATALOGUE: f"{unreachable}: whether Redis has lost writes cannot be known"}


async def _head(settings: Settings) -> LogHead:
    async with Client(settings.redis_url) as client:
        return await Log(client, Keys(settings.key_prefix)).head(CATALOGUE)
