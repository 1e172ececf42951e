"""Disks that are full, of the log and of the views."""

import asyncio
import contextlib

import redis

from tests.chaos.disks import Disk
from tests.chaos.faults.scene import Scene, fault
from tests.servers import RedisLikeServer
from tests.waiting import until

REWRITE_SECONDS = 30.0


@fault("mounts")
async def log_disk_full(scene: Scene) -> None:
    """No byte left on Redis' disk: it refuses writes, or dies with `appendfsync always`.

    A server that survived that may have a hole in its file, and could not be started again: its
    operator rewrites the file, as the alert `redis-rewrite-needed` says.
    """
    scene.recovery.expect(synced=False)
    await _fill(scene, scene.system.disks["redis"])
    await scene.system.revive_redis()
    with contextlib.suppress(redis.RedisError):  # another fault meets this one
        await _rewrite(scene.system.redis)


@fault("mounts")
async def views_disk_full(scene: Scene) -> None:
    """No byte left on the disk of the views: the projector waits, spawns continue."""
    await _fill(scene, scene.system.disks["views"])
    if scene.system.postgres is not None and not scene.system.postgres.running:
        await scene.system.revive_postgres()


async def _fill(scene: Scene, disk: Disk) -> None:
    scene.count("outage")
    disk.fill()
    try:
        scene.note(f"for {await scene.wait(2.0, 7.0):.1f} s")
    finally:
        disk.free()


async def _rewrite(server: RedisLikeServer) -> None:
    with server.client() as client:

        def rewritten() -> bool:
            found = client.info("persistence")
            if found["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"]:
                return False
            if not asked:
                asked.append(client.bgrewriteaof())
                return False
            return bool(found["aof_last_bgrewrite_status"] == "ok")

        asked: list[object] = []
        await until(lambda: asyncio.to_thread(rewritten), timeout=REWRITE_SECONDS)
