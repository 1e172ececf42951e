"""A confirmation is proved at the server that confirms it, and a lost command is reported."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from eventstore.durability import confirmations
from eventstore.durability.confirmations import Confirmations, WaitTarget
from eventstore.errors import CommandLost, Halted, LogMissing, Recovered, RolledBack
from eventstore.language.agent_commands import Terminate
from eventstore.language.durability import Level
from eventstore.log.replies import Outcome, Proof
from tests.conftest import MakeServer
from tests.pools import ORIGIN, TestPool, open_pool
from tests.servers import RedisLikeServer

ON_REPLY = WaitTarget(Level.FSYNCED)


class Stage:
    def __init__(self, server: RedisLikeServer, pool: TestPool) -> None:
        self.server, self.pool, self.log = server, pool, pool.log
        self.confirmations = Confirmations(pool.log, server.url)

    async def confirm(
        self, *proofs: Proof, how: WaitTarget = ON_REPLY, seconds: float = 10.0
    ) -> str:
        deadline = asyncio.get_running_loop().time() + seconds
        return await self.confirmations.confirm(how, proofs, deadline)

    async def spawned(self) -> Proof:
        submitted = await self.pool.spawn()
        assert submitted.proof is not None
        return submitted.proof


@pytest.fixture
async def stage(redis_server: MakeServer) -> AsyncIterator[Stage]:
    server = redis_server(appendfsync="always")
    async with open_pool(server.url) as pool:
        opened = Stage(server, pool)
        yield opened
        await opened.confirmations.close()


async def test_an_event_is_proved_by_its_position_and_its_id(stage):
    """A log that was rolled back and has grown again has another event at that position."""
    proof = await stage.spawned()
    assert await stage.confirm(proof) == ""
    for wrong in ({"value": "another"}, {"subject": "99999999999999-0"}):
        with pytest.raises(CommandLost, match=f"seq {proof.seq} of pool 'developer_pool'"):
            await stage.confirm(replace(proof, **wrong))
        with pytest.raises(Halted, match="another history: event"):
            await stage.pool.spawn()
        await stage.log.client.execute_command("HDEL", "pool:{developer_pool}:meta", "halted")


async def test_a_lost_command_does_not_fail_others(stage):
    """They share one wait, but each has its own answer."""
    proof = await stage.spawned()
    good = asyncio.create_task(stage.confirm(proof))
    bad = asyncio.create_task(stage.confirm(replace(proof, value="another")))
    await asyncio.wait([good, bad])
    assert good.result() == ""
    assert isinstance(bad.exception(), CommandLost)


async def test_trimmed_events_are_not_reported_as_lost(stage):
    """Only archived events are trimmed."""
    proof = await stage.spawned()
    await stage.spawned()
    await stage.log.client.execute_command("XTRIM", "pool:{developer_pool}:events", "MAXLEN", 1)
    assert await stage.confirm(proof) == ""


async def test_a_repeated_spawn_is_proved_by_its_answer(stage):
    await stage.pool.spawn(key="k", digest="d")
    known = await stage.pool.spawn(key="k", digest="d")
    assert known.outcome is Outcome.KNOWN
    assert known.proof is not None
    assert await stage.confirm(known.proof) == ""
    with pytest.raises(CommandLost):
        await stage.confirm(replace(known.proof, value="another agent"))


async def test_a_termination_that_was_requested_before_is_proved_by_the_agent(stage):
    spawned = await stage.pool.spawn()
    proof = Proof("developer_pool", "ending", spawned.agent_id)
    with pytest.raises(CommandLost):
        await stage.confirm(proof)
    await stage.log.act("developer_pool", spawned.agent_id, Terminate(), ORIGIN)
    assert await stage.confirm(proof) == ""


async def test_events_of_another_generation_are_not_searched_in_this_one(stage):
    """The rebuilt log may start after them, so their absence there proves nothing."""
    proof = await stage.spawned()
    await stage.log.client.execute_command("HSET", "pool:{developer_pool}:meta", "generation", 2)
    with pytest.raises(Recovered):
        await stage.confirm(proof)
    with pytest.raises(Recovered):
        await stage.confirm(proof)


async def test_a_log_below_the_high_water_mark_or_missing_confirms_nothing(stage):
    proof = await stage.spawned()
    seq = stage.log.high_water_mark("developer_pool")[1]
    stage.log.raise_high_water_mark("developer_pool", 1, seq + 1)
    with pytest.raises(RolledBack):
        await stage.confirm(proof)
    stage.server.wipe()
    with pytest.raises(LogMissing):
        await stage.confirm(proof)


async def test_confirming_changes_nothing_but_the_time(stage):
    """It writes, since WAIT covers writes of its own connection, but no event and no counter."""
    proof = await stage.spawned()
    before, head = await stage.log.survey("developer_pool"), await stage.log.head("developer_pool")
    with stage.server.client() as client:
        offset = client.info("replication")["master_repl_offset"]
        entries = client.xlen("pool:{developer_pool}:events")
        assert await stage.confirm(proof) == ""
        assert client.info("replication")["master_repl_offset"] > offset
        assert client.xlen("pool:{developer_pool}:events") == entries
    after = await stage.log.survey("developer_pool")
    assert (after.waiting, after.live) == (before.waiting, before.live)
    assert (await stage.log.head("developer_pool")).seq == head.seq


async def test_fsynced_is_confirmed_by_the_settings_of_the_server_that_has_it(stage):
    """They are read on the connection that proved the command, each time."""
    proof = await stage.spawned()
    assert await stage.confirm(proof) == ""
    with stage.server.client() as client:
        client.config_set("appendfsync", "everysec")
    assert await stage.confirm(proof) == "appendfsync was changed"
    with stage.server.client() as client:
        client.config_set("appendfsync", "always")
        client.config_set("no-appendfsync-on-rewrite", "yes")
    assert await stage.confirm(proof) == "appendfsync was changed"


async def test_a_level_that_is_not_reached_in_time_says_so(stage, monkeypatch):
    """No replica follows: WAIT returns before the deadline, with what it counted."""
    monkeypatch.setattr(confirmations, "TICK_MS", 10_000)  # WAIT has half the time
    replicated = WaitTarget(Level.REPLICATED)
    late = await stage.confirm(await stage.spawned(), how=replicated, seconds=1.0)
    assert late == "0 of 1 replicas have it"
