"""Redis and PostgreSQL that die, stand still, come back, or have no memory left."""

import asyncio
from typing import Any

import redis.asyncio

from tests.chaos.faults.scene import Scene, fault


@fault()
async def redis_killed(scene: Scene) -> None:
    """kill -9 of Redis, and its start on the same append-only file."""
    refuses = scene.random.random() < 0.5
    scene.count("outage")
    scene.system.redis.kill9()
    if refuses:  # else the proxy lets connections in and breaks them off, as balancers do
        await asyncio.gather(*(link.refuse() for link in scene.system.redis_links.values()))
    try:
        seconds = await scene.hold(0.2, 6.0)
        scene.tell(f"{'refusing' if refuses else 'dropping'} connections for {seconds:.1f} s")
    finally:
        await scene.system.revive_redis()
        if refuses:
            await asyncio.gather(*(link.start() for link in scene.system.redis_links.values()))


@fault()
async def redis_paused(scene: Scene) -> None:
    """SIGSTOP of Redis: connections stay, nothing answers."""
    scene.count("outage")
    scene.system.redis.pause()
    try:
        scene.tell(f"for {await scene.hold(0.5, 8.0):.1f} s")
    finally:
        scene.system.redis.resume()


@fault()
async def redis_memory_full(scene: Scene) -> None:
    """Redis at its memory limit: spawns are refused, everything else goes on."""
    scene.count("outage")
    async with redis.asyncio.Redis.from_url(scene.system.redis.url, socket_timeout=5) as client:
        info: dict[str, Any] = await client.info("memory")
        limit = int(info["used_memory"]) - (1 << 20)
        await client.config_set("maxmemory", max(limit, 1 << 20))
        try:
            seconds = await scene.hold(2.0, 8.0)
            scene.tell(f"maxmemory {limit >> 10} KiB for {seconds:.1f} s")
        finally:
            await client.config_set("maxmemory", 0)


@fault("postgresql")
async def postgresql_stopped(scene: Scene) -> None:
    """PostgreSQL stopped and started: spawns go on, reads wait or say that they cannot."""
    postgres = scene.system.postgres
    assert postgres is not None
    scene.count("outage")
    await asyncio.to_thread(postgres.stop)
    try:
        scene.tell(f"for {await scene.hold(0.5, 8.0):.1f} s")
    finally:
        await scene.system.revive_postgres()
