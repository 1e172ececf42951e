"""What a new worker is made of: a fork of a process that has its imports, and a connection.

    python -m tests.bench.bare_fork REDIS_URL

`fork` on its input is answered with the milliseconds until the child has a reply from Redis, and
`forks COUNT LIMIT` until so many have, of which at most LIMIT start at the same time; `hold` with
the process id of a child that keeps its connection; `end` ends those.
"""

import asyncio
import gc
import os
import select
import signal
import sys
import time

import uvloop

import workers.process.worker  # noqa: F401  # what the process that workers are forked from has
from eventstore.connection.clients import Client


def main(redis_url: str) -> None:
    gc.collect()
    gc.freeze()
    held: list[int] = []
    for line in sys.stdin:
        match line.split():
            case ["fork"]:
                print(fork_many(redis_url, 1, 1), flush=True)
            case ["forks", count, limit]:
                print(fork_many(redis_url, int(count), int(limit)), flush=True)
            case ["hold"]:
                held.append(fork_and_hold(redis_url))
                print(held[-1], flush=True)
            case _:
                end(held)
                print(0, flush=True)
    end(held)


def end(children: list[int]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    children.clear()


def fork_many(redis_url: str, count: int, limit: int) -> float:
    began = time.monotonic_ns()
    starting: dict[int, int] = {}
    last = forked = 0
    while forked < count or starting:
        while forked < count and len(starting) < limit:
            reading, pid = fork_once(redis_url, began)
            starting[reading] = pid
            forked += 1
        for reading in select.select(list(starting), [], [])[0]:
            last = max(last, int(os.read(reading, 64)))
            os.close(reading)
            os.waitpid(starting.pop(reading), 0)
    return last / 1e6


def fork_once(redis_url: str, began: int) -> tuple[int, int]:
    """A descriptor from which the nanoseconds can be read until the child's reply; and its id."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        uvloop.run(connect(redis_url, hold=False))
        os.write(writing, str(time.monotonic_ns() - began).encode())
        os._exit(0)
    os.close(writing)
    return reading, pid


def fork_and_hold(redis_url: str) -> int:
    pid = os.fork()
    if pid == 0:
        uvloop.run(connect(redis_url, hold=True))
        os._exit(0)
    return pid


async def connect(redis_url: str, *, hold: bool) -> None:
    async with Client(redis_url) as client:
        await client.execute_command("PING")
        if hold:
            await asyncio.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])
