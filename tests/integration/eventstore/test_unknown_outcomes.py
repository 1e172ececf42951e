"""The outcome of a write whose reply was lost stays unknown, even if the next attempt is refused.

The second attempt may be refused (no memory, no connection) although the first was written. The
answer "nothing was written" would then be wrong, and the client would request another agent.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from eventstore.connection.clients import Client
from eventstore.errors import LogUnreachable, MemoryExhausted, OutcomeUnknown, Recovered
from eventstore.keys import Keys
from eventstore.language.agent_commands import Terminate
from eventstore.language.catalogue import Pool
from eventstore.language.events import AgentRequested, WorkerRequested
from eventstore.language.pool_config import PoolConfig
from eventstore.language.workers import DeclareLost as WorkerFence
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from eventstore.log.replies import Outcome
from eventstore.log.submission import submit
from eventstore.steps.step import Origin
from tests.chaos.proxy import Link
from tests.servers import RedisLikeServer

POOL = "p"


class LosesReplies(Link):
    """Loses the next reply to a write, and then lets something happen to the server."""

    meanwhile: Callable[[], Any] | None = None

    async def _delay_reply(self, chunk: bytes, sink: asyncio.StreamWriter) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
            sink.transport.abort()
            raise ConnectionAbortedError
        await super()._delay_reply(chunk, sink)


@asynccontextmanager
async def unreliable(server: RedisLikeServer) -> AsyncIterator[tuple[Log, LosesReplies]]:
    """A log with one pool, over a link; its scripts are loaded already."""
    link = LosesReplies("log", server.port, Random(1))
    await link.start()
    log = Log(Client(f"redis://127.0.0.1:{link.port}/0"), Keys())
    try:
        await log.create_catalogue()
        await log.initialise(POOL)
        await spawn(log, "warm-up")
        await log.act(POOL, "warm-up", Terminate(), Origin())
        yield log, link
    finally:
        await log.client.aclose()
        await link.stop()


async def spawn(log: Log, agent_id: str) -> Outcome:
    pool = Pool(pool_name=POOL, role_type="r", config=PoolConfig())
    submitted = await submit(
        log,
        pool,
        AgentRequested(role_type="r", project_id="x"),
        Origin(),
        agent_id=agent_id,
        operation_id=agent_id,
        digest="d",
    )
    return submitted.outcome


async def test_a_spawn_that_was_written_is_not_refused_for_memory(redis_server):
    """The memory limit refuses the retry before the script can recognise it."""
    server = redis_server()
    async with unreliable(server) as (log, link):

        async def no_memory() -> None:
            with server.client() as client:
                client.config_set("maxmemory", "1mb")

        link.meanwhile = no_memory
        with pytest.raises(OutcomeUnknown):
            await spawn(log, "a-1")
        with pytest.raises(MemoryExhausted):
            await spawn(log, "a-2")
        with server.client() as client:
            client.config_set("maxmemory", "0")
        assert await spawn(log, "a-1") == Outcome.KNOWN


async def test_a_termination_that_was_written_is_not_refused_for_a_connection(redis_server):
    async with unreliable(redis_server()) as (log, link):
        await spawn(log, "a-1")
        agent = await log.agent(POOL, "a-1")
        link.meanwhile = link.refuse
        with pytest.raises(OutcomeUnknown):
            await log.act(POOL, "a-1", Terminate(), Origin(), agent=agent)
        with pytest.raises(LogUnreachable):
            await log.act(POOL, "a-1", Terminate(), Origin())
        await link.start()
        acted = await log.act(POOL, "a-1", Terminate(), Origin())
        assert acted.outcome == Outcome.ALREADY


async def test_a_pool_that_was_changed_is_not_refused_for_a_connection(redis_server):
    """It is found to be written, but its keys cannot be created: the caller must retry."""
    server = redis_server()
    async with unreliable(server) as (log, link):
        reader = Reader(server.url)  # reads do not use the link
        catalogue = CatalogueLog(log, reader)
        await catalogue.start()
        link.meanwhile = link.refuse
        with pytest.raises(OutcomeUnknown):
            await catalogue.create_pool("q", "r", PoolConfig(), Origin())
        await link.start()
        assert "q" in (await catalogue.refresh()).live_pools()
        await reader.close()


async def test_a_spawn_that_was_written_is_not_refused_for_a_recovery(redis_server):
    """The recovery restores the operation id, so a retry finds the spawn."""
    server = redis_server()
    async with unreliable(server) as (log, link):

        async def recovery() -> None:
            with server.client() as client:
                client.hset(log.keys.pool(POOL, "meta"), "generation", 2)

        link.meanwhile = recovery
        assert await spawn(log, "a-1") == Outcome.KNOWN
        assert await log.live(POOL) == ["a-1"]


async def _nothing() -> None:
    """Only the reply is lost."""


async def test_a_pool_that_another_created_meanwhile_is_not_reported_as_created(
    redis_server, monkeypatch
):
    """The pool's other role shows that this change was not written."""
    server = redis_server()
    async with unreliable(server) as (log, link):
        catalogue = CatalogueLog(log, Reader(server.url))
        link.meanwhile = _nothing
        created = await catalogue.create_pool("ours", "r", PoolConfig(), Origin())
        assert created.outcome == Outcome.DONE

        async def in_vain(*_: Any, **__: Any) -> None:
            monkeypatch.undo()
            await catalogue.create_pool("q", "another", PoolConfig(), Origin())
            raise LOST

        monkeypatch.setattr(log, "commit", in_vain)
        with pytest.raises(OutcomeUnknown):
            await catalogue.create_pool("q", "r", PoolConfig(), Origin())
        changed = await catalogue.create_pool("q", "another", PoolConfig(), Origin())
        assert changed.outcome == Outcome.CONFLICT
        await catalogue.close()


LOST, RECOVERED, FULL = OutcomeUnknown("lost"), Recovered(POOL, 2), MemoryExhausted()


@pytest.mark.parametrize(
    ("answers", "raised"),
    [
        ([LOST, RECOVERED, FULL], OutcomeUnknown),
        ([LOST, RECOVERED, RECOVERED], OutcomeUnknown),
        ([LOST, LOST], OutcomeUnknown),
        ([RECOVERED, LOST, FULL], OutcomeUnknown),
        ([RECOVERED, FULL], MemoryExhausted),
        ([RECOVERED, RECOVERED, RECOVERED], Recovered),
    ],
)
async def test_only_if_every_attempt_was_refused_nothing_was_written(
    answers, raised, redis_url, monkeypatch
):
    log = Log(Client(redis_url), Keys())
    left = iter(answers)

    async def commit(*_: Any, **__: Any) -> Any:
        raise next(left)

    monkeypatch.setattr(log, "commit", commit)
    with pytest.raises(raised):
        await spawn(log, "a-1")
    assert list(left) == []
    await log.client.aclose()


async def test_a_termination_that_was_written_is_not_refused_for_a_lost_log(redis_server):
    server = redis_server()
    async with unreliable(server) as (log, link):
        await spawn(log, "a-1")

        async def loss() -> None:
            with server.client() as client:
                client.flushall()

        agent = await log.agent(POOL, "a-1")
        link.meanwhile = loss
        with pytest.raises(OutcomeUnknown):
            await log.act(POOL, "a-1", Terminate(), Origin(), agent=agent)


@pytest.mark.parametrize("of", ["agent", "worker"])
async def test_a_state_is_read_again_after_a_recovery_even_with_the_same_version(
    of, redis_url, monkeypatch
):
    """Another task notices the recovery when this one has already read its state."""
    log = Log(Client(redis_url), Keys())
    await log.create_catalogue()
    await log.initialise(POOL)
    await spawn(log, "a-1")
    order = WorkerRequested(host="h", max_agents=10, deadline_ms=2**52)
    step = log.step(POOL, Origin())
    step.worker("w-1", None, (order,))
    await log.commit(step)
    read, states = getattr(log, of), []

    async def read_and_recovered(*names: str) -> Any:
        states.append(await read(*names))
        if len(states) == 1:
            await log.client.execute_command("HSET", log.keys.pool(POOL, "meta"), "generation", 2)
            log.raise_high_water_mark(POOL, 2, 2)
        return states[-1]

    monkeypatch.setattr(log, of, read_and_recovered)
    if of == "agent":
        await log.act(POOL, "a-1", Terminate(), Origin())
    else:
        await log.act_on_worker(POOL, "w-1", WorkerFence(reason="r"), Origin())
    assert len(states) == 2
    await log.client.aclose()
