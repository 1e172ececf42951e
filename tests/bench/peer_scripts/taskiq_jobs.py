"""taskiq: streams with acknowledgements, and results in Redis, as taskiq-redis recommends."""

import asyncio
import os
from typing import Any

import uvloop
from enqueueing import serve
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker
from working import work

URL = os.environ["BENCH_REDIS_URL"]
results: RedisAsyncResultBackend[None] = RedisAsyncResultBackend(redis_url=URL)
broker = RedisStreamBroker(url=URL).with_result_backend(results)


@broker.task(task_name="job")
async def job(body: dict[str, Any]) -> None:
    work(body)


async def main() -> None:
    await broker.startup()
    await serve(job.kiq)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main())
