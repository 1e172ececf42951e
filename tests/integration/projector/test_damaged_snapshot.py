"""Damaged keys and events where views start from a snapshot: parked, named, or waited for."""

from typing import Any

import pytest
import redis

from eventstore.errors import MusterError, RolledBack
from eventstore.keys import Keys
from eventstore.language.agent_commands import End
from eventstore.log import parked
from eventstore.log.log import Log
from projector.queries.views import AgentFilter
from projector.recovery import recovery
from projector.service.active import Active
from tests.integration.projector.recovering import recovered, stopped_at, write_entry
from tests.integration.projector.stage import EVENTS, META, POOL, QUICK, open_stage
from tests.waiting import until


async def test_living_agents_of_a_halted_log_are_recovered_where_nothing_is_archived(
    redis_url: str, views_url: str
) -> None:
    """No projector has ever used the empty database: only Redis' hashes are left."""
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool(**QUICK)
        damaged = (await pool.spawn()).agent_id
        ids = [(await pool.spawn(labels={"team": "core"})).agent_id for _ in range(3)]
        stage.trim(1)
        stage.log.raise_high_water_mark(POOL, 1, 1000)
        with pytest.raises(RolledBack):
            await pool.spawn()
        with redis.Redis.from_url(redis_url) as client:
            client.hset(f"agent:{{{POOL}}}:{damaged}", "status", "dancing")
        done = await recovered(stage)
        assert [(one.kind, one.agent_id) for one in done[POOL].unsaved] == [("damaged", damaged)]
        log = Log(stage.log.client, Keys())
        assert set(await log.live(POOL)) == set(ids)
        async with stage.projecting():
            await until(stage.all_ok)
            row = await stage.views.agent(ids[0])
            assert row is not None
            assert (row.status, row.labels) == ("pending", {"team": "core"})


async def test_damaged_agents_are_named_also_after_an_interruption(
    redis_url: str, views_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a projector, which parks them, and by a recovery, which is the last to read them."""

    class Interrupted(MusterError):
        pass

    def interrupt(what: object, name: str, pool: str) -> None:
        original = getattr(what, name)

        async def once(*args: Any, **kwargs: Any) -> Any:
            if not any(pool in (one, getattr(one, "pool", "")) for one in args):
                return await original(*args, **kwargs)
            monkeypatch.setattr(what, name, original)
            raise Interrupted

        monkeypatch.setattr(what, name, once)

    async with open_stage(redis_url, views_url) as stage:
        pools = [await stage.pool(name, **QUICK) for name in (POOL, "other")]
        damaged = [(await pool.spawn()).agent_id for pool in pools]
        for one, agent_id in zip(pools, damaged, strict=True):
            await one.spawn()
            stage.trim(1, one.name)
            with redis.Redis.from_url(redis_url) as client:
                client.hset(f"agent:{{{one.name}}}:{agent_id}", "status", "dancing")
        stage.log.raise_high_water_mark(POOL, 1, 1000)
        with pytest.raises(RolledBack):
            await pools[0].spawn()
        interrupt(recovery, "unarchived_events", POOL)
        with pytest.raises(Interrupted):
            await recovered(stage)
        done = await recovered(stage)
        assert [(one.kind, one.agent_id) for one in done[POOL].unsaved] == [("damaged", damaged[0])]
        interrupt(Active, "_park", "other")
        async with stage.projecting():
            await stage.settle()
            keys = [one.key for one in await parked.read(stage.log, "other")]
            assert keys == [f"agent:{damaged[1]}"]


async def test_damaged_keys_are_parked_and_delay_nothing(redis_url: str, views_url: str) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool, other = await stage.pool(), await stage.pool("other")
        await other.spawn()
        fence = await pool.worker("w")
        sound, runs, no_hash, no_input = await stage.started(pool, fence, 4)
        state = await stage.log.agent(POOL, runs)
        await pool.order("odd")
        stage.trim(1)
        with redis.Redis.from_url(redis_url) as client:
            client.hset(f"agent:{{{POOL}}}:{runs}", "status", "dancing")
            client.delete(f"agent:{{{POOL}}}:{no_hash}")
            client.set(f"agent:{{{POOL}}}:{no_hash}", "x")
            client.set(f"pool:{{{POOL}}}:spec:{no_input}", "{")
            client.hset(f"process:{{{POOL}}}:odd", "status", b"\xff")
        async with stage.projecting():
            await stage.settle()
            rows = await stage.views.agents(AgentFilter())
            assert [row.agent_id for row in rows if row.pool_name == POOL] == [sound]
            keys = {one.key for one in await parked.read(stage.log, POOL)}
            assert keys == {f"agent:{agent_id}" for agent_id in (runs, no_hash, no_input)}
            await stage.act(pool, runs, End(reason="completed"), fence=fence, agent=state)
            await pool.spawn()
            await stage.settle()
            assert await stage.all_ok()
            assert await stage.views.agent(runs) is None
        async with stage.projecting():
            await stage.act(pool, sound, End(reason="completed"), fence=fence)
            await stage.settle()
            assert await stage.all_ok()


@pytest.mark.parametrize("kind", ["agent.abducted", "agent.lost"])
async def test_an_event_that_cannot_be_read_stops_only_that_pool(
    redis_url: str, views_url: str, kind: str
) -> None:
    """Until a projector can read it: here the stream is repaired."""
    async with open_stage(redis_url, views_url) as stage:
        pool, other = await stage.pool(), await stage.pool("other")
        for one in (pool, pool, other):
            await one.spawn()
        stage.trim(1)
        write_entry(redis_url, 3, kind=kind)
        async with stage.projecting():
            await stage.settle("other")
            position = await stopped_at(stage)
            assert position.seq == 0
            assert position.status.startswith("unreadable event in a stream that has lost its")
        with redis.Redis.from_url(redis_url) as client:
            client.xdel(EVENTS, client.xrevrange(EVENTS, count=1)[0][0])
            client.hset(META, "seq", 2)
        async with stage.projecting():
            await stage.settle()
            assert len(await stage.views.agents(AgentFilter())) == 3
