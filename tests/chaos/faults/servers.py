"""Redis and PostgreSQL that die, are stopped, restart, or have no memory left."""

import asyncio
from functools import partial

import redis

from tests.chaos.faults.scene import Scene, fault
from tests.waiting import until

LIFT_SECONDS = 60.0
"""Wait for Redis, which another fault of the round may have stopped."""


@fault()
async def redis_killed(scene: Scene) -> None:
    """kill -9 of Redis, and its start on the same append-only file."""
    refuses = scene.random.random() < 0.5
    scene.count("outage")
    scene.recovery.expect(synced=False)
    scene.system.redis.kill9()
    if refuses:  # else the proxy lets connections in and breaks them off, as balancers do
        await asyncio.gather(*(link.refuse() for link in scene.system.redis_links.values()))
    try:
        seconds = await scene.wait(0.2, 6.0)
        scene.note(f"{'refusing' if refuses else 'dropping'} connections for {seconds:.1f} s")
    finally:
        await scene.system.revive_redis()
        if refuses:
            await asyncio.gather(*(link.start() for link in scene.system.redis_links.values()))


@fault()
async def redis_paused(scene: Scene) -> None:
    """SIGSTOP of Redis: connections stay, nothing answers."""
    scene.count("outage")
    if scene.system.redis.running:  # another fault may end it, before or meanwhile
        scene.system.redis.pause()
    try:
        scene.note(f"for {await scene.wait(0.5, 8.0):.1f} s")
    finally:
        if scene.system.redis.running:
            scene.system.redis.resume()


@fault()
async def redis_memory_full(scene: Scene) -> None:
    """Redis at its memory limit: spawns are refused, everything else works."""
    scene.count("outage")
    try:
        limit = await asyncio.to_thread(_limit, scene)
        seconds = await scene.wait(2.0, 8.0)
        scene.note(f"maxmemory {limit >> 10} KiB for {seconds:.1f} s")
    except redis.RedisError as error:
        scene.note(f"Redis was unreachable already: {error}")
    finally:
        lifted = partial(asyncio.to_thread, _lifted, scene)
        await until(lifted, timeout=LIFT_SECONDS, what="no limit of memory any more")


def _limit(scene: Scene) -> int:
    """Set Redis' memory limit to what it uses; returns the limit in bytes."""
    with scene.system.redis.client() as client:
        limit = max(int(client.info("memory")["used_memory"]) - (1 << 20), 1 << 20)
        client.config_set("maxmemory", limit)
    return limit


def _lifted(scene: Scene) -> bool:
    """Whether Redis may have all the memory that it wants."""
    try:
        with scene.system.redis.client() as client:
            client.config_set("maxmemory", 0)
    except redis.RedisError:
        return False
    return True


@fault("postgresql")
async def postgresql_stopped(scene: Scene) -> None:
    """PostgreSQL stopped and started: spawns work, reads wait or fail."""
    postgres = scene.system.postgres
    assert postgres is not None
    scene.count("outage")
    await asyncio.to_thread(postgres.stop)
    try:
        scene.note(f"for {await scene.wait(0.5, 8.0):.1f} s")
    finally:
        await scene.system.revive_postgres()
