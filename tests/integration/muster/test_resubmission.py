"""Agents of a fallback are submitted to the real log once, also when that is repeated."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis
from msgspec.structs import replace

from eventstore.connection.clients import Client
from eventstore.ids import new_id
from eventstore.keys import Keys
from eventstore.language.agent_commands import Terminate
from eventstore.language.events import AgentRequested, AgentTerminated
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.log.submission import submit
from muster.fallback.inventory import Entry, Result
from muster.fallback.primary_log import OPERATION_MS, PrimaryLog
from muster.process.log_preparation import prepare
from muster.settings.settings import Settings
from tests.integration.muster.fallback_stage import (
    DAY,
    POOL,
    Fallback,
    do_handover,
    ids,
    spawn_for_real,
)
from tests.pools import ORIGIN


@asynccontextmanager
async def primary(settings: Settings) -> AsyncIterator[PrimaryLog]:
    await prepare(settings)
    log = PrimaryLog(settings, "a-fallback")
    try:
        await log.start()
        yield log
    finally:
        await log.close()


def listed(key: str = "") -> Entry:
    """An agent of a retired fallback."""
    now = int(time.time() * 1000)
    request = AgentRequested(role_type="developer", project_id="p", operation_id=key, digest="d")
    return Entry(
        pool_name=POOL,
        agent_id=new_id(),
        request=request,
        since_ms=now,
        key_expires_ms=now + 60_000 if key else 0,
    )


async def test_an_agent_that_was_handed_over_and_has_ended_does_not_run_again(
    settings: Settings,
) -> None:
    """Its hash is gone from the real log, and its client sent no key: the log still has it."""
    entry = listed()
    async with primary(settings) as log:
        assert (await log.submit(entry)).result is Result.HANDED_OVER
        ended = await log._log.act(POOL, entry.agent_id, Terminate(), ORIGIN)
        assert ended.outcome is Outcome.DONE
        with redis.Redis.from_url(settings.redis_url) as real:
            assert real.delete(f"agent:{{{POOL}}}:{entry.agent_id}") == 1
        assert (await log.submit(entry)).result is Result.HANDED_OVER
        late = await log.submit(replace(entry, since_ms=entry.since_ms - OPERATION_MS))
        assert (late.result, "not known any more" in late.reason) == (Result.REFUSED, True)
    assert ids(settings.redis_url) == [entry.agent_id]


async def test_a_key_that_the_real_log_has_meanwhile_belongs_to_its_first_request(
    settings: Settings,
) -> None:
    entry = listed(DAY)
    first = await spawn_for_real(settings, key=DAY, digest="d")
    async with primary(settings) as log:
        refused = await log.submit(entry)
    assert (refused.result, first in refused.reason) == (Result.REFUSED, True)
    assert ids(settings.redis_url) == [first]


async def test_a_client_that_repeats_its_request_is_answered_with_the_same_agent(
    settings: Settings,
) -> None:
    """Also one without a key of its own, which repeats a request that was not answered."""
    async with Fallback(settings) as fallback:
        keyed = await fallback.spawn(key=DAY, digest="d")
        unkeyed = await submit(
            fallback.log,
            fallback.pool.pool,
            AgentRequested(role_type="developer", project_id="p"),
            ORIGIN,
            agent_id=new_id(),
            operation_id="key:made-by-the-gateway",
            digest="d",
        )
    await do_handover(settings)
    assert await spawn_for_real(settings, key=DAY, digest="d") == keyed
    again = await spawn_for_real(settings, key="key:made-by-the-gateway", digest="d")
    assert again == unkeyed.agent_id
    assert ids(settings.redis_url) == sorted([keyed, unkeyed.agent_id])


async def test_a_handover_that_an_older_version_started_is_completed_as_it_would(
    settings: Settings,
) -> None:
    """It ended each agent in the fallback first, and may not have got an answer."""
    async with Fallback(settings) as fallback:
        every = [await fallback.spawn() for _ in range(3)]
        for agent_id in every[:2]:
            agent = await fallback.log.agent(POOL, agent_id)
            step = fallback.log.step(POOL, ORIGIN)
            step.agent(agent_id, agent, [AgentTerminated(reason="handed-over")])
            await fallback.log.commit(step)
        log_id = fallback.folder.identity().log_id
    await prepare(settings)
    client = Client(settings.redis_url)
    accepted = await submit(
        Log(client, Keys()),
        fallback.pool.pool,
        AgentRequested(role_type="developer", project_id="p"),
        ORIGIN,
        agent_id=every[0],
        operation_id=f"fallback:{log_id}:{every[0]}",
        digest="d",
    )
    assert accepted.outcome is Outcome.DONE
    await Log(client, Keys()).act(POOL, every[0], Terminate(), ORIGIN)
    await client.execute_command("DEL", f"agent:{{{POOL}}}:{every[0]}")
    await client.aclose()
    assert "3 handed over" in (await do_handover(settings))[0]
    assert ids(settings.redis_url) == sorted(every)
