"""Disks that are full, of the log and of the views."""

from tests.chaos.disks import Disk
from tests.chaos.faults.scene import Scene, fault


@fault("mounts")
async def log_disk_full(scene: Scene) -> None:
    """No byte left on Redis' disk: it refuses writes, or dies with `appendfsync always`."""
    scene.recovery.expect(synced=False)
    await _fill(scene, scene.system.disks["redis"])
    await scene.system.revive_redis()


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
