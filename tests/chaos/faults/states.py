"""States of agents that are deleted, as by mistake."""

import asyncio
import os
import signal
from collections.abc import Iterable

import redis

from tests.chaos.configuration import PLACED
from tests.chaos.faults.scene import Scene, fault
from tests.chaos.system import System
from tests.chaos.views import DATABASE_ERRORS, execute, select

COPY_SECONDS = 1.5
"""A copy is made within this time, unless another fault is in the way; well below a lease."""
POLL_SECONDS = 0.1
BASE = f"pool:{{{PLACED}}}:"


@fault()
async def states_deleted(scene: Scene) -> None:
    """A worker dies, and what its agents saved is gone from Redis, perhaps with the copies."""
    copies = scene.random.random() < 0.5
    try:
        worker, pid = await asyncio.to_thread(_choose, scene)
        if not pid:
            scene.note("no worker runs")
            return
        os.kill(pid, signal.SIGSTOP)  # nothing is saved any more
        try:
            await _delete(scene, worker, copies=copies)
        finally:
            os.kill(pid, signal.SIGKILL)
            scene.count("kill")
    except (redis.RedisError, *DATABASE_ERRORS) as error:
        scene.note(f"not done: {error}")
    except ProcessLookupError:
        scene.note("its worker had died already")


def _choose(scene: Scene) -> tuple[str, int]:
    """A worker, and its process id; 0 if there is none."""
    running = set(scene.system.workers())
    with scene.system.redis.client() as client:
        names = [name.decode() for name in client.zrange(f"{BASE}processes", 0, -1)]
        pids = [int(client.hget(f"process:{{{PLACED}}}:{name}", "pid") or 0) for name in names]
    found = [(name, pid) for name, pid in zip(names, pids, strict=True) if pid in running]
    return scene.random.choice(found) if found else ("", 0)


async def _delete(scene: Scene, worker: str, *, copies: bool) -> None:
    saved = await asyncio.to_thread(_saved, scene.system, worker)
    if copies:
        copied: set[str] = set()
        await asyncio.to_thread(_delete_copies, scene.system.views_url, saved)
    else:
        copied = await _copied(scene.system.views_url, saved)
    scene.load.states.deleted |= saved.keys()
    scene.load.states.copied |= copied
    scene.load.states.copied -= saved.keys() - copied
    await asyncio.to_thread(_delete_states, scene.system, saved)
    scene.note(f"of {len(saved)} agents, {len(copied)} of them with a copy")


def _saved(system: System, worker: str) -> dict[str, str]:
    """The agents of a worker that have saved a state: its digest."""
    with system.redis.client() as client:
        names = sorted(name.decode() for name in client.smembers(f"{BASE}held:{worker}"))
        digests = [client.hget(f"agent:{{{PLACED}}}:{name}", "state_sha256") for name in names]
    pairs = zip(names, digests, strict=True)
    return {name: digest.decode() for name, digest in pairs if digest}


async def _copied(url: str, saved: dict[str, str]) -> set[str]:
    """Those of which the database gets the last state in time."""
    ends = asyncio.get_running_loop().time() + COPY_SECONDS
    query = f"SELECT agent_id, sha256 FROM {{}}agent_states WHERE pool_name = '{PLACED}'"
    while True:
        copies = dict(await asyncio.to_thread(select, url, query))
        found = {name for name, digest in saved.items() if copies.get(name) == digest}
        if len(found) == len(saved) or asyncio.get_running_loop().time() > ends:
            return found
        await asyncio.sleep(POLL_SECONDS)


def _delete_copies(url: str, names: Iterable[str]) -> None:
    for name in names:
        execute(url, f"DELETE FROM {{}}agent_states WHERE agent_id = '{name}'")


def _delete_states(system: System, names: Iterable[str]) -> None:
    with system.redis.client() as client:
        for name in names:
            client.delete(f"state:{{{PLACED}}}:{name}")
