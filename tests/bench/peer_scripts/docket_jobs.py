"""docket: its defaults, one worker process per core."""

import asyncio
import os
from typing import Any

from docket import Docket
from enqueueing import serve
from working import work


async def job(body: dict[str, Any]) -> None:
    work(body)


tasks = [job]


async def main() -> None:
    async with Docket(name="bench", url=os.environ["BENCH_REDIS_URL"]) as docket:
        docket.register(job)

        async def enqueue(body: dict[str, Any]) -> None:
            await docket.add(job)(body)  # `add` makes the key: once for each job

        await serve(enqueue)


if __name__ == "__main__":
    asyncio.run(main())
