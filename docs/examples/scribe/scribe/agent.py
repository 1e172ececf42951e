"""The scribe: writes the lines of its `input`, then waits until it is told to end."""

import asyncio
from pathlib import Path

from muster import Agent, Context
from scribe.page import Page

PAGES = Path("pages.db")


class Scribe(Agent):
    async def start(self, context: Context) -> None:
        token = context.fencing_token
        self.page = Page(PAGES, context.agent_id, (token.generation, token.seq))
        self.written = await asyncio.to_thread(self.page.take_over)
        context.logger.info("scribe.ready", written=self.written)

    async def run(self, context: Context) -> None:
        for line in context.input.get("lines", [])[self.written :]:
            if line == "spill":
                raise RuntimeError("the ink is spilt")
            await asyncio.to_thread(self.page.write, line)
            print("wrote", line)
        async with context.idle():
            await context.stopping.wait()

    async def check(self, _: Context) -> None:
        await asyncio.to_thread(self.page.check)

    async def stop(self, context: Context) -> None:
        context.logger.info("scribe.done", incarnation_was=context.incarnation)
