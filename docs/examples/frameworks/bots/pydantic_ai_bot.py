"""Pydantic AI, answering as a stream."""

from openai import AsyncOpenAI
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from bots import model
from muster import Agent, Context


class PydanticAIBot(Agent):
    async def start(self, _: Context) -> None:
        self.client = AsyncOpenAI(base_url=model.URL, api_key=model.KEY, max_retries=0)
        provider = OpenAIProvider(openai_client=self.client)
        self.agent = PydanticAgent(OpenAIChatModel(model.NAME, provider=provider))

    async def run(self, context: Context) -> None:
        await model.work(context, self.answer)

    async def answer(self, question: str) -> str:
        try:
            async with self.agent.run_stream(question) as answer:
                return str(await answer.get_output())
        except ModelAPIError as error:
            raise error.__cause__ or error from None

    async def stop(self, _: Context) -> None:
        await self.client.close()
