"""A claim books nothing that Python cannot read, whichever field of a hash is damaged, and how."""

import pytest
import redis

from eventstore.errors import Unreadable
from eventstore.language.agents import Agent
from eventstore.steps import hashes
from tests.pools import open_pool

POOL = "developer_pool"
NAMES = tuple(
    hashes.AGENT.to_hash(Agent(agent_id="a", pool_name="p", role_type="r", project_id="x"))
)
VALUES = (None, "", "x", "-1", "1.5", "1e+16", "1e", "0x10", "nan", "running?", "z,,1", "É", "\0")
"""None: the field is not there."""


def readable(fields: dict[str, str]) -> bool:
    try:
        hashes.AGENT.from_hash("a", fields)
    except Unreadable:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
async def test_nothing_is_booked_that_cannot_be_read(any_redis_url: str, name: str) -> None:
    with redis.Redis.from_url(any_redis_url, decode_responses=True) as server:
        async with open_pool(any_redis_url) as pool:
            fence = await pool.worker("w", slots=len(VALUES) + 1)
            sound, unreadable = (await pool.spawn()).agent_id, set()
            for value in VALUES:
                agent_id = (await pool.spawn()).agent_id
                key = f"agent:{{{POOL}}}:{agent_id}"
                if value is None:
                    server.hdel(key, name)
                else:
                    server.hset(key, name, value)
                if not readable(server.hgetall(key)):
                    unreadable.add(agent_id)
            claimed = {one.agent.agent_id for one in await pool.claim(fence, len(VALUES) + 1)}
            booked = server.smembers(f"pool:{{{POOL}}}:held:w")
            slots_used = int(server.hget(f"process:{{{POOL}}}:w", "agent_count") or 0)
    assert sound in claimed
    assert not booked & unreadable
    assert slots_used == len(booked)
    assert booked <= claimed
