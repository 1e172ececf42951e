"""Logs that are lost or rolled back, which only a recovery can repair."""

import shutil

import redis

from tests.chaos.faults.scene import Scene, fault


@fault("recover")
async def redis_wiped(scene: Scene) -> None:
    """Redis forgets everything, scripts included, under load."""
    scene.count("outage")
    scene.recovery.expect(synced=True)
    try:
        with scene.system.redis.client() as client:
            keys = client.dbsize()
            client.flushall()
            client.script_flush()
    except redis.RedisError as error:
        scene.note(f"Redis was unreachable already: {error}")
    else:
        scene.note(f"{keys} keys")


@fault("recover")
async def redis_rolled_back(scene: Scene) -> None:
    """Redis is started on an append-only file of some seconds ago."""
    scene.count("outage")
    scene.recovery.expect(synced=True)
    server = scene.system.redis
    current = server.directory / "appendonlydir"
    older = server.directory / "older"
    try:
        shutil.copytree(current, older)
        seconds = await scene.wait(1.0, 4.0)
        server.kill9()
        shutil.rmtree(current)
        older.rename(current)
        scene.note(f"by {seconds:.1f} s")
    except OSError as error:  # its disk is full, or it just started another file
        scene.note(f"not done: {error.strerror or 'the file was being rewritten'}")
    finally:
        shutil.rmtree(older, ignore_errors=True)
        await scene.system.revive_redis()
