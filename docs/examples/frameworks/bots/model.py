"""Where the model is, what its absence means, and the loop that all these agents share."""

import asyncio
import os
from collections.abc import Awaitable, Callable

import openai
import openai.resources.chat  # otherwise at the first use, while all agents of the worker wait

from muster import Context, Unavailable

URL = os.environ.get("MODEL_URL", "http://127.0.0.1:9999/v1")
KEY = os.environ.get("MODEL_KEY", "none")
NAME = "fake"
PAUSE_SECONDS = 1.0
RETRY_SECONDS = 5.0


async def work(context: Context, answer: Callable[[str], Awaitable[str]]) -> None:
    """Ask, note the answer, pause; until the agent is to end. An answer under way is finished."""
    count = 0
    while not context.stopping.is_set():
        count += 1
        try:
            said = await answer(f"question {count} of {context.agent_id}")
        except openai.APIConnectionError as error:
            raise Unavailable("the model does not answer", retry_after=RETRY_SECONDS) from error
        context.logger.debug("bot.answered", count=count, said=said)
        async with context.idle():
            try:
                await asyncio.wait_for(context.stopping.wait(), PAUSE_SECONDS)
            except TimeoutError:
                continue
