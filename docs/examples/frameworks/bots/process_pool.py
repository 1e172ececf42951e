"""A process pool for what needs a processor: the agent's own, made in `start`, closed in `stop`."""

import asyncio
import hashlib
from concurrent.futures import ProcessPoolExecutor

from openai import AsyncOpenAI

from bots import model
from muster import Agent, Context

ROUNDS = 20_000


def digest(text: str) -> str:
    """Something that takes a while."""
    found = text.encode()
    for _ in range(ROUNDS):
        found = hashlib.sha256(found).digest()
    return found.hex()


class ProcessPoolBot(Agent):
    async def start(self, _: Context) -> None:
        self.pool = ProcessPoolExecutor(1)
        self.client = AsyncOpenAI(base_url=model.URL, api_key=model.KEY, max_retries=0)

    async def run(self, context: Context) -> None:
        await model.work(context, self.answer)

    async def answer(self, question: str) -> str:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self.pool, digest, question)
        messages = [{"role": "user", "content": found}]
        done = await self.client.chat.completions.create(model=model.NAME, messages=messages)
        return str(done.choices[0].message.content)

    async def stop(self, _: Context) -> None:
        await self.client.close()
        await asyncio.to_thread(self.pool.shutdown, cancel_futures=True)
