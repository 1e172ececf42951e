"""arq: its defaults, one worker process per core."""

import asyncio
import os
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from enqueueing import serve
from working import work

SETTINGS = RedisSettings.from_dsn(os.environ["BENCH_REDIS_URL"])


async def job(_: dict[str, Any], body: dict[str, Any]) -> None:
    work(body)


class WorkerSettings:
    functions = (job,)
    redis_settings = SETTINGS


async def main() -> None:
    pool = await create_pool(SETTINGS)
    await serve(lambda body: pool.enqueue_job("job", body))


if __name__ == "__main__":
    asyncio.run(main())
