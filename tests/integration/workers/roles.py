"""Roles for tests."""

import asyncio
from typing import ClassVar

from workers.api.agent import Agent, Context


class Quiet(Agent):
    """Runs until it is stopped."""


class Noted(Agent):
    """Records its calls."""

    calls: ClassVar[list[str]] = []

    async def start(self, context: Context) -> None:
        self.calls.append("start")

    async def run(self, context: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.calls.append("run ended")

    async def stop(self, context: Context) -> None:
        self.calls.append("stop")


class SlowStart(Agent):
    """Never starts."""

    async def start(self, context: Context) -> None:
        await asyncio.Event().wait()
