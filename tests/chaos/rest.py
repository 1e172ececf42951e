"""Rest: nothing is under way any more. Whatever does not come to rest is named.

At rest every agent runs, and not only for a while, or has ended; none is isolated, for it would
still be cleared; no command waits, no worker is suspect, cordoned or being reaped, the views have
taken every event, and so it stays for a while.
"""

import asyncio
import json
import time
from typing import Any

import redis.asyncio

from tests.chaos.system import System
from tests.chaos.views import select

POLL_SECONDS = 0.2
QUIET_SECONDS = 2.0


async def come_to_rest(system: System, timeout_seconds: float) -> list[str]:
    """Wait for rest; returns what is unfinished after the timeout, as text."""
    deadline = time.monotonic() + timeout_seconds
    async with redis.asyncio.Redis.from_url(
        system.redis.url, decode_responses=True, socket_timeout=5
    ) as client:
        heads: dict[str, int] = {}
        quiet_since = time.monotonic()
        while True:
            before, heads = heads, await asyncio.to_thread(heads_of, system)
            left = [*await restless(client), *await asyncio.to_thread(behind, system, heads)]
            if left or heads != before:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > QUIET_SECONDS:
                return []
            if time.monotonic() > deadline:
                return left or ["events still come"]
            await asyncio.sleep(POLL_SECONDS)


async def restless(client: Any) -> list[str]:
    """What the log still has to do."""
    left = []
    async for key in client.scan_iter("pool:{*}:meta", count=1000):
        base = key.removesuffix("meta")
        tag = base.removeprefix("pool:").removesuffix(":")
        for agent in await client.smembers(f"{base}agents"):
            names = ("status", "alone", "state_lost")
            status, alone, state_lost = await client.hmget(f"agent:{tag}:{agent}", *names)
            if state_lost == "1":
                continue  # it waits for a person
            if status != "running":
                left.append(f"{tag} agent {agent} is {status}")
            elif alone:
                left.append(f"{tag} agent {agent} is isolated")
            elif completes(await client.get(f"{base}spec:{agent}")):
                left.append(f"{tag} agent {agent} is going to end by itself")
        if waiting := await client.xlen(f"{base}commands"):
            left.append(f"{tag} has {waiting} commands")
        if lost := await client.smembers(f"{base}lost"):
            left.append(f"{tag} has lost workers to clear up after: {', '.join(lost)}")
        for worker in await client.zrange(f"{base}processes", 0, -1):
            key = f"process:{tag}:{worker}"
            status, cordoned = await client.hmget(key, "status", "cordoned")
            if status != "active":
                left.append(f"{tag} worker {worker} is {status}")
            elif cordoned:
                left.append(f"{tag} worker {worker} is cordoned: {cordoned}")
    return left


def completes(spec: str | None) -> bool:
    """Whether an agent will end by itself: its event would come while all is judged."""
    passed = json.loads(spec or "{}").get("input")
    return isinstance(passed, dict) and passed.get("do") == "complete"


def heads_of(system: System) -> dict[str, int]:
    """The last `seq` of every log that has views."""
    found = {}
    with system.redis.client() as client:
        for pool, _, _ in checkpoints(system.views_url):
            meta = f"pool:{{{pool}}}:meta" if pool else "{muster:catalogue}:meta"
            found[pool] = int(client.hget(meta, "seq") or 0)
    return found


def behind(system: System, heads: dict[str, int]) -> list[str]:
    """Pools whose views have not applied every event, or that stopped."""
    return [
        f"the views of {pool or 'catalogue'} are at {seq} of {heads[pool]}, status {status!r}"
        for pool, seq, status in checkpoints(system.views_url)
        if pool in heads and (seq < heads[pool] or status != "ok")
    ]


def checkpoints(url: str) -> list[tuple[str, int, str]]:
    """Each pool's position in the views, read directly."""
    return select(url, "SELECT pool, seq, status FROM {}checkpoints")
