"""What a fallback leaves to the real log, listed once, before its log is retired.

The list is made from the fallback's views, which are completed for it, and is a file of its folder:
a retired fallback needs neither a server nor views that this version can read.
"""

import asyncio
import time
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from eventstore.atomic_file import write_bytes, write_json
from eventstore.connection.clients import Client
from eventstore.errors import LogError
from eventstore.keys import CATALOGUE, Keys
from eventstore.language.agents import Agent, shared_fields
from eventstore.language.events import AgentRequested, decode_body
from eventstore.language.pool_config import PoolConfig, read_config
from eventstore.log.log import Log
from eventstore.retention import INTERNAL_OPERATION_MS
from muster.fallback.directory import Folder
from projector.queries.views import AgentFilter, DatabaseError, Views
from projector.service.options import ProjectorOptions
from projector.service.projector import Phase, Projector

NAME: Final = "handover.json"
STATES: Final = "states"
"""The folder with what the agents saved."""
VIEWS_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.02
PAGE: Final = 1000
EVENTS_MAX: Final = 100_000
POOL_EVENTS: Final = ("pool.created", "pool.changed", "pool.deleted")
HANDED_OVER_BEFORE: Final = "handed-over"
"""Why agents ended in a fallback that an older version was handing over: it ended each one there
first, and then submitted it under the operation id that is still used. So it is submitted again."""


class Result(StrEnum):
    """What became of an entry."""

    OPEN = ""
    HANDED_OVER = "handed-over"
    """It is an agent of the real log."""
    RECORDED = "recorded"
    """It had ended before; the real log knows it as ended, for a client that repeats its key."""
    REFUSED = "not-handed-over"
    """The real log does not have it."""


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One agent. `alive`: it is to run in the real log; else the log is only to know it.

    `since_ms`: since when it may have been submitted. `key_expires_ms`: until when the operation
    id of its request, an `Idempotency-Key` for most, counts.
    """

    pool_name: str
    agent_id: str
    request: AgentRequested
    since_ms: int
    key_expires_ms: int = 0
    alive: bool = True
    save: int = 0
    sha256: str = ""
    """Of the state that it saved last, which is a file of the folder; empty: it has none."""
    result: Result = Result.OPEN
    reason: str = ""


class Inventory(Struct, frozen=True, kw_only=True):
    """Agents, those in slots first; and the settings of pools that clients created or changed."""

    entries: list[Entry] = []
    pools: dict[str, PoolConfig | None] = {}
    """None: deleted in the fallback."""


async def collect(folder: Folder, redis_url: str) -> None:
    """Complete the views of a fallback, whose log is at `redis_url`; write down what is in them.

    Raises `LogError` where they do not become complete.
    """
    projector = Projector(ProjectorOptions(redis_url=redis_url, database_url=folder.views_url))
    client, views = Client(redis_url), Views(folder.views_url)
    await projector.start()
    try:
        async with asyncio.timeout(VIEWS_SECONDS):
            while projector.phase is not Phase.ACTIVE:  # noqa: ASYNC110  # it has no event for it
                await asyncio.sleep(POLL_SECONDS)
        await views.start()
        write_json(folder.path / NAME, await _list(views, Log(client, Keys()), folder))
    except (TimeoutError, DatabaseError) as error:
        raise LogError(
            f"the views of the fallback in {folder.path} do not become complete"
            f" ({str(error) or f'after {VIEWS_SECONDS:g} s'})"
        ) from error
    finally:
        await projector.stop()
        await views.stop()
        await client.aclose()


async def _list(views: Views, event_log: Log, folder: Folder) -> Inventory:
    await _complete(views, event_log, CATALOGUE)
    configs = {
        row.pool_name: read_config(msgspec.json.encode(row.config))[0]
        for row in await views.pools()
    }
    changes = await views.events(CATALOGUE, types=POOL_EVENTS, limit=EVENTS_MAX)
    for pool in {*configs, *(event.subject for event in changes)}:
        await _complete(views, event_log, pool)
    agents = await _agents(views)
    entries = [await _entry(views, agent) for agent in agents]
    for agent, entry in zip(agents, entries, strict=True):
        if entry.alive and agent.state_sha256:
            state = await event_log.saved_state(agent.pool_name, agent)
            if state is None:
                state = await views.saved_state(agent)
            if state is not None:
                write_state(folder, agent.agent_id, state)
    by_clients = [event.subject for event in changes if event.actor == "http"]
    return Inventory(
        entries=[entry for entry in entries if entry.alive or entry.key_expires_ms],
        pools={pool: configs.get(pool) for pool in by_clients},
    )


async def _complete(views: Views, event_log: Log, pool: str) -> None:
    """Wait until the views of a log are at its end."""
    seq = (await event_log.head(pool)).seq
    if not await views.wait_for(pool, seq, timeout_seconds=VIEWS_SECONDS):
        raise TimeoutError


async def _agents(views: Views) -> list[Agent]:
    """All that ever were: first those in slots, then the others as they came."""
    found: list[Agent] = []
    after = ""
    while rows := await views.agents(AgentFilter(), after=after, limit=PAGE):
        after = rows[-1].agent_id
        states = [await views.agent_state(row.pool_name, row.agent_id) for row in rows]
        found += filter(None, states)
    return sorted(found, key=lambda agent: (not agent.held, agent.agent_id))


async def _entry(views: Views, agent: Agent) -> Entry:
    """With the operation id of its request while that counts: of an agent that ended only if it is
    a client's own key.
    """
    now_ms = int(time.time() * 1000)
    before = agent.ended and agent.reason == HANDED_OVER_BEFORE
    alive = before or not (agent.ended or agent.stop)
    request, key_expires_ms = AgentRequested(**shared_fields(agent, AgentRequested)), 0
    for event in await views.events(
        agent.pool_name, subject=agent.agent_id, types=("agent.requested",), limit=1
    ):
        body = decode_body(event.type, event.version, event.data)
        assert isinstance(body, AgentRequested)
        ttl_ms = body.operation_ms or (INTERNAL_OPERATION_MS if alive else 0)
        if event.ts + ttl_ms > now_ms:
            request = replace(request, operation_id=body.operation_id, digest=body.digest)
            key_expires_ms = event.ts + ttl_ms
    return Entry(
        pool_name=agent.pool_name,
        agent_id=agent.agent_id,
        request=request,
        since_ms=agent.ended_ms if before else now_ms,
        key_expires_ms=key_expires_ms,
        alive=alive,
        save=agent.save,
        sha256=agent.state_sha256,
    )


def write_state(folder: Folder, agent_id: str, state: bytes) -> None:
    path = folder.path / STATES / agent_id
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, state)


def read_state(folder: Folder, entry: Entry) -> bytes | None:
    """The state of an agent; None if it has none, or it was lost."""
    try:
        return (folder.path / STATES / entry.agent_id).read_bytes() if entry.sha256 else None
    except FileNotFoundError:
        return None
