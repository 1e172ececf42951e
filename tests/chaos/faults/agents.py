"""Agents that misbehave: several of a kind, in a pool of their own, next to good ones."""

import asyncio
from typing import Any

from tests.chaos.configuration import LEASE_SECONDS, WILD
from tests.chaos.faults.scene import Scene, fault

LIFE_SECONDS = 6.0


@fault()
async def agents_kill_their_process(scene: Scene) -> None:
    """Agents that end their own worker, by signal or by exit."""
    await _bring(scene, "kill-process", "exit-process", "steady")


@fault()
async def agents_block_the_loop(scene: Scene) -> None:
    """Agents that block their worker's event loop for longer than is allowed."""
    await _bring(scene, "block-loop", "steady", seconds=LEASE_SECONDS * 2.5)


@fault()
async def agents_swallow_cancellation(scene: Scene) -> None:
    """Agents that ignore cancellation."""
    await _bring(scene, "swallow-cancellation", "steady", seconds=15.0)


@fault()
async def agents_raise(scene: Scene) -> None:
    """Agents that raise, in their start, their run or their check."""
    await _bring(scene, "raise-in-start", "raise-in-run", "raise-in-check")


async def _bring(scene: Scene, *kinds: str, seconds: float = 0.0) -> None:
    """Ask for some, let them do it, and ask for their end."""
    wanted = [kind for kind in kinds for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        for kind in wanted:
            group.create_task(_one(scene, kind, seconds))
    scene.note(f"{len(wanted)} agents: {', '.join(kinds)}")


async def _one(scene: Scene, kind: str, seconds: float) -> None:
    todo: dict[str, Any] = {}
    if kind != "steady":
        todo = {"do": kind, "after": scene.random.uniform(0.1, 1.0), "for": seconds}
    entry = await scene.load.spawn(scene.random, WILD, input=todo).carry_out()
    await scene.wait(1.0, LIFE_SECONDS)
    if entry.status == "acknowledged":
        await scene.load.terminate(scene.random, WILD, entry.agent_id)
