"""Processes of Muster that are killed, or stopped and continued."""

import asyncio
import os
import signal

from tests.chaos.configuration import LEASE_SECONDS
from tests.chaos.faults.scene import Scene, fault
from tests.chaos.roles import Role
from tests.waiting import until

ORDERLY_SECONDS = 30.0
"""A role that is asked to end has ended, and its successor has been started, within this time."""


@fault()
async def worker_killed(scene: Scene) -> None:
    """kill -9 of one worker."""
    await _kill_workers(scene, 1)


@fault()
async def workers_killed(scene: Scene) -> None:
    """kill -9 of half of the workers at once."""
    await _kill_workers(scene, max(len(scene.system.workers()) // 2, 1))


@fault()
async def supervisor_killed(scene: Scene) -> None:
    """kill -9 of a supervisor; the next one on its host adopts its workers."""
    await _kill_role(scene, "supervisor")


@fault()
async def gateway_killed(scene: Scene) -> None:
    """kill -9 of a gateway, with requests under way."""
    await _kill_role(scene, "gateway")


@fault()
async def projector_killed(scene: Scene) -> None:
    """kill -9 of a projector, the active one or the standby."""
    await _kill_role(scene, "projector")


@fault()
async def host_killed(scene: Scene) -> None:
    """kill -9 of a supervisor with half of all workers, and no supervisor there for a while."""
    role = _choose(scene, "supervisor")
    role.suspended = True
    try:
        if role.send(signal.SIGKILL):
            scene.count("kill")
        for pid in scene.system.workers():
            if scene.random.random() < 0.5:
                _kill(scene, pid)
        seconds = await scene.wait(0.5, LEASE_SECONDS * 1.5)
        scene.note(f"{role.name} and half of all workers, stopped for {seconds:.1f} s")
    finally:
        role.suspended = False


@fault()
async def zygote_killed(scene: Scene) -> None:
    """kill -9 of a supervisor's zygote; running workers stay alive."""
    zygotes = scene.system.zygotes()
    if not zygotes:
        scene.note("none runs")
        return
    killed = _kill(scene, scene.random.choice(zygotes))
    scene.note(f"{killed:d} of {len(zygotes)}")


@fault()
async def role_restarted(scene: Scene) -> None:
    """SIGTERM of a role, as at an upgrade: it hands over in good order, and its successor comes."""
    role = _choose(scene, scene.random.choice(("gateway", "projector", "supervisor")))
    before = role.pid
    role.send(signal.SIGTERM)
    began = asyncio.get_running_loop().time()
    await until(lambda: role.pid not in (0, before), timeout=ORDERLY_SECONDS, what="a successor")
    scene.note(f"{role.name}, in {asyncio.get_running_loop().time() - began:.1f} s")


@fault()
async def worker_paused(scene: Scene) -> None:
    """SIGSTOP of a worker beyond its lease, then SIGCONT, when another runs its agents."""
    workers = scene.system.workers()
    if not workers:
        scene.note("no worker runs")
        return
    await _pause(scene, [scene.random.choice(workers)], "a worker")


@fault()
async def supervisor_paused(scene: Scene) -> None:
    """SIGSTOP of a supervisor, then SIGCONT."""
    role = _choose(scene, "supervisor")
    await _pause(scene, [role.pid], role.name)


@fault()
async def gateway_paused(scene: Scene) -> None:
    """SIGSTOP of a gateway, then SIGCONT."""
    role = _choose(scene, "gateway")
    await _pause(scene, [role.pid], role.name)


@fault()
async def projectors_paused(scene: Scene) -> None:
    """SIGSTOP of one or both projectors, then SIGCONT: one that wakes may be superseded."""
    roles = scene.system.kinds("projector")
    chosen = roles if scene.random.random() < 0.5 else [scene.random.choice(roles)]
    await _pause(scene, [role.pid for role in chosen], " and ".join(role.name for role in chosen))


async def _kill_workers(scene: Scene, count: int) -> None:
    workers = scene.system.workers()
    chosen = scene.random.sample(workers, min(count, len(workers)))
    killed = sum(_kill(scene, pid) for pid in chosen)
    scene.note(f"{killed} of {len(workers)} workers")


async def _kill_role(scene: Scene, kind: str) -> None:
    role = _choose(scene, kind)
    killed = role.send(signal.SIGKILL)
    if killed:
        scene.count("kill")
    scene.note(role.name if killed else f"{role.name} did not run")


def _choose(scene: Scene, kind: str) -> Role:
    return scene.random.choice(scene.system.kinds(kind))


async def _pause(scene: Scene, pids: list[int], what: str) -> None:
    stopped = [pid for pid in pids if pid and _send(pid, signal.SIGSTOP)]
    try:
        seconds = await scene.wait(LEASE_SECONDS * 1.2, LEASE_SECONDS * 2.5)
        scene.note(f"{what}, for {seconds:.1f} s" if stopped else f"{what} did not run")
    finally:
        for pid in stopped:
            _send(pid, signal.SIGCONT)


def _kill(scene: Scene, pid: int) -> bool:
    """Whether there was anything to kill; only that is counted."""
    killed = _send(pid, signal.SIGKILL)
    if killed:
        scene.count("kill")
    return killed


def _send(pid: int, number: signal.Signals) -> bool:
    """To a process below this one: its id is not used again before we have collected it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
