"""Events that cannot be read or applied stop the projection of their own pool, and no other."""

import json
import random
import re
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from projector.queries.views import AgentFilter
from tests.integration.projector.recovering import stopped_at, write_entry
from tests.integration.projector.stage import EVENTS, META, POOL, open_stage

LONG = random.Random(0).randbytes(5000).hex()
"""A name that is too long for an index of PostgreSQL."""


def order(**changes: int | str) -> str:
    """The body of a `worker.requested`."""
    return json.dumps({"host": "h", "max_agents": 1, "deadline_ms": 1, **changes})


def requested(project: str) -> str:
    """The body of an `agent.requested`."""
    return json.dumps({"role_type": "r", "project_id": project})


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"seq": 5}, r"gap: seq 3 is missing before seq 5 \(.+\)"),
    ({"seq": 2}, r"out of order: another event came at seq 2 \(.+\), after seq 2"),
    ({"seq": 3, "kind": "agent.abducted"}, r"unreadable event: seq 3 .+ does not know that"),
    ({"seq": 3, "version": 9}, r"unreadable event: seq 3 .+ reads up to version 1"),
    ({"seq": 3, "kind": "agent.lost"}, r"unreadable event: seq 3 .+"),
    ({"seq": 3}, r"contradiction: seq 3 \(agent.started of a\): no such agent"),
    (
        {"seq": 3, "kind": "worker.requested", "data": order(deadline_ms=2**63)},
        r"unreadable event: seq 3 .+ its data is damaged",
    ),
    (
        {"seq": 3, "kind": "worker.requested", "data": order(max_agents=2**31)},
        r"unreadable event: seq 3 .+ its data is damaged",
    ),
    (
        {"seq": 3, "kind": "worker.requested", "data": order(), "subject": LONG},
        r"unreadable event: seq 3 .+ a name of more than 512 characters",
    ),
    (
        {"seq": 3, "kind": "agent.requested", "data": requested(LONG)},
        r"unreadable event: seq 3 .+ its data is damaged",
    ),
    ({"seq": 3, "kind": "pool.deleted"}, r"contradiction: seq 3 .+ belongs in the catalogue"),
]
"""Entries after seq 2, and how the log of each is stopped."""


async def test_damaged_logs_stop_only_their_own_pools(
    redis_url: str, database_url: str, subtests: pytest.Subtests
) -> None:
    names = [f"broken{number}" for number in range(len(BROKEN))]
    async with open_stage(redis_url, database_url) as stage:
        sound, *pools = [await stage.pool(name) for name in ("sound", *names)]
        for pool in pools:
            await pool.spawn()
            await pool.spawn()
        with capture_logs() as logs:
            async with stage.projecting():
                await stage.settle()
                for name, (entry, _) in zip(names, BROKEN, strict=True):
                    write_entry(redis_url, **entry, pool=name)
                stopped = {name: await stopped_at(stage, name) for name in names}
                await sound.spawn()
                await stage.settle("sound")
                positions = await stage.views.positions()
                assert {name: positions[name] for name in names} == stopped
        reported = [entry for entry in logs if entry["event"] == "projection.stopped"]
        assert len(reported) == len(BROKEN)
        for name, (entry, status) in zip(names, BROKEN, strict=True):
            with subtests.test(status, entry=entry):
                assert stopped[name].seq == 2
                assert re.match(status, stopped[name].status)
                reasons = [line["reason"] for line in reported if line["pool"] == name]
                assert reasons == [stopped[name].status]
                assert len(await stage.views.events(name)) == 2


async def test_text_that_postgresql_cannot_store_stops_nothing(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        await (await stage.pool()).spawn()
        write_entry(redis_url, 2, kind="worker.requested", data=order(host="h\0"))
        spawn = json.dumps({"role_type": "r\0", "project_id": "p\0"})
        write_entry(redis_url, 3, kind="agent.requested", data=spawn)
        async with stage.projecting():
            await stage.settle()
            shown = await stage.views.agent("a")
            assert shown is not None
            assert (shown.role_type, shown.project_id) == ("r\ufffd", "p\ufffd")


async def test_events_before_the_damage_in_one_batch_are_applied(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool()
        await pool.spawn()
        await pool.spawn()
        write_entry(redis_url, 3)
        async with stage.projecting():
            position = await stopped_at(stage)
        assert position.seq == 2
        assert len(await stage.views.agents(AgentFilter())) == 2
        assert len(await stage.views.events(POOL)) == 2


async def test_a_repaired_pool_continues_with_the_next_start(
    redis_url: str, views_url: str
) -> None:
    async with open_stage(redis_url, views_url) as stage:
        pool = await stage.pool()
        await pool.spawn()
        async with stage.projecting():
            await stage.settle()
            write_entry(redis_url, 3)
            await stopped_at(stage)
        with redis.Redis.from_url(redis_url) as client:
            client.xdel(EVENTS, client.xrevrange(EVENTS, count=1)[0][0])
            client.hset(META, "seq", 1)
        await pool.spawn()
        async with stage.projecting():
            await stage.settle()
            assert (await stage.views.positions())[POOL].status == "ok"
