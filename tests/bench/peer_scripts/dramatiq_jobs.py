"""dramatiq: Redis as its broker, and its defaults: a process per core, eight threads each."""

import asyncio
import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from enqueueing import serve
from working import work

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_REDIS_URL"]))


@dramatiq.actor(actor_name="job")
def job(body: dict[str, Any]) -> None:
    work(body)


async def enqueue(body: dict[str, Any]) -> None:
    job.send(body)


if __name__ == "__main__":
    asyncio.run(serve(enqueue))
