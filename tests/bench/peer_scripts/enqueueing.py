"""The client of a peer: reads `enqueue COUNT` and `ask PORT`, one per line, and answers in JSON.

It runs in the peer's environment, and needs nothing but Python.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

CLIENTS = 64
BODY = {"project_id": "bench", "role_type": "returns", "pool_name": "returns"}
"""What a job gets: the body of a spawn."""


async def serve(enqueue: Callable[[dict[str, Any]], Awaitable[object]]) -> None:
    """`enqueue` puts one job with its argument into the queue."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        verb, value = line.split()
        if verb == "ask":
            await enqueue({"asked_ns": time.monotonic_ns(), "port": int(value)})
            print(0, flush=True)
        else:
            print(json.dumps(await _enqueue_all(enqueue, int(value))), flush=True)


async def _enqueue_all(enqueue: Callable[[dict[str, Any]], Awaitable[object]], count: int) -> float:
    """How many seconds it takes, with so many clients at once."""
    left = iter(range(count))

    async def one_client() -> None:
        for _ in left:
            await enqueue(BODY)

    began = time.perf_counter()
    await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
    return time.perf_counter() - began
