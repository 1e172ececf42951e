"""The agent of pools that nobody gave a role of their own: it is there, idle, and does nothing."""

from workers.api.agent import Agent, Context


class Placeholder(Agent):
    """Starts at once and stays until it is told to end."""

    async def start(self, context: Context) -> None:
        context.logger.info("agent.ready")
