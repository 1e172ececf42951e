"""Logs that are lost, or go back to what they were: what only a recovery can mend."""

import shutil

from tests.chaos.faults.scene import Scene, fault


@fault("recover")
async def redis_wiped(scene: Scene) -> None:
    """Redis forgets everything, scripts included, under load."""
    scene.count("outage")
    scene.recovery.expected = True
    with scene.system.redis.client() as client:
        keys = client.dbsize()
        client.flushall()
        client.script_flush()
    scene.tell(f"{keys} keys")


@fault("recover")
async def redis_rolled_back(scene: Scene) -> None:
    """Redis is started on an append-only file of some seconds ago."""
    scene.count("outage")
    scene.recovery.expected = True
    redis = scene.system.redis
    current = redis.directory / "appendonlydir"
    older = redis.directory / "older"
    shutil.copytree(current, older)
    try:
        seconds = await scene.hold(1.0, 4.0)
        redis.kill9()
        shutil.rmtree(current)
        shutil.copytree(older, current)
        scene.tell(f"by {seconds:.1f} s")
    finally:
        shutil.rmtree(older)
        await scene.system.revive_redis()
