"""Hashers share a process pool and an HTTP client, which belong to their worker."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from muster import Agent, Context, WorkerInfo


@dataclass
class Shared:
    processes: ProcessPoolExecutor
    http: aiohttp.ClientSession


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Hasher(Agent):
    @classmethod
    @asynccontextmanager
    async def worker_lifespan(cls, worker: WorkerInfo) -> AsyncIterator[Shared]:
        with ProcessPoolExecutor(2) as processes:
            async with aiohttp.ClientSession() as http:
                worker.logger.info("hashers.ready", worker_id=worker.worker_id)
                yield Shared(processes, http)
        # Here a tracer is flushed: provider.shutdown()

    async def run(self, context: Context) -> None:
        shared: Shared = context.shared
        async with shared.http.get(context.input["url"]) as answer:
            data = await answer.read()
        loop = asyncio.get_running_loop()
        print(await loop.run_in_executor(shared.processes, digest, data))
