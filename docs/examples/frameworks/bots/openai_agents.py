"""The OpenAI Agents SDK, with a tool that the model may call."""

from agents import Agent as SDKAgent
from agents import OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

from bots import model
from muster import Agent, Context

set_tracing_disabled(True)  # it would send traces to a service


@function_tool
def length(text: str) -> int:
    """The number of characters of a text."""
    return len(text)


class OpenAIAgentsBot(Agent):
    async def start(self, _: Context) -> None:
        self.client = AsyncOpenAI(base_url=model.URL, api_key=model.KEY, max_retries=0)
        self.agent = SDKAgent(
            name="bot",
            instructions="Answer in one line.",
            tools=[length],
            model=OpenAIChatCompletionsModel(model.NAME, openai_client=self.client),
        )

    async def run(self, context: Context) -> None:
        await model.work(context, self.answer)

    async def answer(self, question: str) -> str:
        return str((await Runner.run(self.agent, question)).final_output)

    async def stop(self, _: Context) -> None:
        await self.client.close()
