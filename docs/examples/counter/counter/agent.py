"""The counter: goes on counting where it was, whatever became of its worker."""

import asyncio

from muster import Agent, Context


class Counter(Agent):
    def __init__(self) -> None:
        self.count = 0

    async def restore(self, state: bytes) -> None:
        self.count = int(state)

    async def run(self, context: Context) -> None:
        while not context.stopping.is_set():
            self.count += 1
            print("count", self.count)
            if self.count % 10 == 0:
                await context.save()
            await asyncio.sleep(context.input.get("seconds", 1))

    async def save(self) -> bytes:
        return str(self.count).encode()
