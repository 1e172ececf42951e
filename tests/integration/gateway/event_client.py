"""A client of the stream of server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.integration.gateway.stage import GatewayStage

EVENTS = "/api/v1/events"


class EventClient:
    """Reads a stream as a browser does."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.last = ""

    async def next(self) -> dict[str, Any]:
        """The next event's data."""
        async with asyncio.timeout(10):
            while True:
                line = (await self.response.content.readline()).decode()
                assert line, "the stream ended"
                if line.startswith("id: "):
                    self.last = line[4:].strip()
                if line.startswith("data: "):
                    return dict(json.loads(line[6:]))

    async def read(self, count: int) -> list[dict[str, Any]]:
        return [await self.next() for _ in range(count)]


@asynccontextmanager
async def following(
    stage: GatewayStage, query: str = "", last: str = ""
) -> AsyncIterator[EventClient]:
    headers = {"Last-Event-ID": last} if last else {}
    async with stage.session.get(f"{EVENTS}{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        client = EventClient(response)
        while not client.last:
            line = (await response.content.readline()).decode()
            client.last = line[4:].strip() if line.startswith("id: ") else ""
        yield client
