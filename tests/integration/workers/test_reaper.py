"""The agents and keys of a lost worker are cleared in several rounds."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from eventstore.errors import LogError
from eventstore.keys import GROUP
from eventstore.language.agents import Status
from tests.pools import TestPool, open_pool, types
from workers.supervisor import reaper


@pytest.fixture
async def pool(redis_url: str) -> AsyncIterator[TestPool]:
    async with open_pool(redis_url) as made:
        yield made


async def clear(pool: TestPool) -> bool:
    lost = await pool.log.worker(pool.name, "w1")
    assert lost is not None
    return await reaper.clean_up(pool.pool_log, lost, pool.pool.config)


async def test_an_agent_that_could_not_be_requeued_once_is_requeued_later(
    pool: TestPool, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may refuse a write for a short time. No termination was requested."""
    fence = await pool.worker("w1")
    submitted = await pool.spawn()
    await pool.claim(fence)
    await pool.fence("w1")
    run = pool.log.run_script
    refused: list[str] = []

    async def refuse_once(name: str, *arguments: Any) -> Any:
        if name == "commit" and not refused:
            refused.append(name)
            raise LogError("script commit failed: ERR of some kind")
        return await run(name, *arguments)

    monkeypatch.setattr(pool.log, "run_script", refuse_once)
    assert not await clear(pool)
    assert await clear(pool)
    assert refused
    agent = await pool.log.agent(pool.name, submitted.agent_id)
    assert agent is not None
    assert (agent.status, agent.incarnation) == (Status.PENDING, 2)
    assert types(redis_url)[-2:] == ["agent.lost", "agent.restarting"]


async def test_commands_that_were_read_in_its_name_are_requeued(pool: TestPool) -> None:
    await pool.worker("w1")
    submitted = await pool.spawn()
    commands = pool.log.keys.pool(pool.name, "commands")
    read = ("XREADGROUP", "GROUP", GROUP, "w1", "STREAMS", commands, ">")
    assert await pool.log.client.execute_command(*read)
    await pool.fence("w1")
    assert await clear(pool)
    agent = await pool.log.agent(pool.name, submitted.agent_id)
    assert agent is not None
    assert (agent.status, agent.stop) == (Status.PENDING, "")
    other = await pool.worker("w2")
    [claimed] = await pool.claim(other)
    assert claimed.agent.agent_id == submitted.agent_id
