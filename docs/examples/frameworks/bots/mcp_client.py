"""An MCP client: its server is a child process, opened in `start` and closed in `stop`."""

import sys
from contextlib import AsyncExitStack
from pathlib import Path

from mcp import ClientSession, StdioServerParameters, stdio_client
from openai import AsyncOpenAI

from bots import model
from muster import Agent, Context

SERVER = Path(__file__).with_name("mcp_tools.py")


class MCPBot(Agent):
    async def start(self, _: Context) -> None:
        self.open = AsyncExitStack()
        server = StdioServerParameters(command=sys.executable, args=[str(SERVER)])
        streams = await self.open.enter_async_context(stdio_client(server))
        self.session = await self.open.enter_async_context(ClientSession(*streams))
        await self.session.initialize()
        self.client = AsyncOpenAI(base_url=model.URL, api_key=model.KEY, max_retries=0)

    async def run(self, context: Context) -> None:
        await model.work(context, self.answer)

    async def answer(self, question: str) -> str:
        counted = await self.session.call_tool("count", {"text": question})
        messages = [{"role": "user", "content": f"{question}: {counted.content[0].text}"}]
        done = await self.client.chat.completions.create(model=model.NAME, messages=messages)
        return str(done.choices[0].message.content)

    async def stop(self, _: Context) -> None:
        await self.client.close()
        await self.open.aclose()
