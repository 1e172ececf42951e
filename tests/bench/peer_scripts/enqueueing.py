"""The client of a peer: reads `enqueue COUNT [PORT]`, one per line, and answers in JSON.

With a port, each job reports to it how long it waited.

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
        _, count, *port = line.split()
        print(json.dumps(await _enqueue_all(enqueue, int(count), *map(int, port))), flush=True)


async def _enqueue_all(
    enqueue: Callable[[dict[str, Any]], Awaitable[object]], count: int, port: int = 0
) -> float:
    """How many seconds it takes, with so many clients at once."""
    left = iter(range(count))

    async def one_client() -> None:
        for _ in left:
            asked = {"asked_ns": time.monotonic_ns(), "port": port} if port else {}
            await enqueue({**BODY, **asked})

    began = time.perf_counter()
    await asyncio.gather(*(one_client() for _ in range(min(CLIENTS, count))))
    return time.perf_counter() - began
