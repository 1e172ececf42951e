"""The agent of pools without a declared role: it stays, idle, and does nothing."""

from workers.api.agent import Agent, Context


class Placeholder(Agent):
    """Starts at once and stays until its end is requested."""

    async def start(self, context: Context) -> None:
        context.logger.info("agent.ready")
