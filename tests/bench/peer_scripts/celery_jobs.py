"""Celery: Redis as broker and for results, and its defaults: a process per core."""

import asyncio
import os
from typing import Any

from celery import Celery
from enqueueing import serve
from working import work

URL = os.environ["BENCH_REDIS_URL"].replace("unix://", "redis+socket://")
app = Celery("bench", broker=URL, backend=URL)


@app.task(name="job")
def job(body: dict[str, Any]) -> None:
    work(body)


async def enqueue(body: dict[str, Any]) -> None:
    job.delay(body)


if __name__ == "__main__":
    asyncio.run(serve(enqueue))
