"""The gateway, asked without blocking the screen: all calls share connections that stay open.

One connection carries the events, another one everything else; a third one is for orders that take
long. Refusals are those of the other commands.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode

import aiohttp

from muster.cli.arguments.command import ServiceUnreachable
from muster.cli.client.api_client import EVENTS, TIMEOUT_SECONDS, Answer, Query
from muster.settings.addresses import redacted

CONNECTIONS_MAX: Final = 3
SILENT_SECONDS: Final = 40.0
"""The gateway sends something at least every fifteen seconds."""
EVENT_BYTES_MAX: Final = 4 * 1024 * 1024


class Connection:
    """Calls to one gateway. Used in one event loop, and closed at the end."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._url, self.shown_url = url, redacted(url)
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
            raise_for_status=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] = {},
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Answer:
        """One call. Raises `Refused`, `ServiceUnreachable`."""
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        try:
            async with self._session.request(
                method, self._target(path, query), json=body, headers=headers, timeout=timeout
            ) as response:
                received = {name.lower(): value for name, value in response.headers.items()}
                answer = Answer(response.status, await response.read(), received)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        answer.raise_refusal()
        return answer

    async def get(self, path: str, query: Query | None = None) -> Answer:
        """One read. Raises `Refused`, `ServiceUnreachable`."""
        return await self.call("GET", path, query=query)

    async def events(self, after: str) -> AsyncIterator[tuple[str, bytes]]:
        """The id and data of each event after an id (empty: from now on), until the stream ends.

        The data is empty where only the position has moved. Raises as `get`.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENT_SECONDS)
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        try:
            async with self._session.get(
                self._target(EVENTS, None), headers=headers, timeout=timeout
            ) as response:
                if response.status != 200:
                    Answer(response.status, await response.read()).raise_refusal()
                async for block in _blocks(response.content):
                    yield block
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error

    def _target(self, path: str, query: Query | None) -> str:
        parameters = [(name, value) for name, value in (query or {}).items() if value is not None]
        return f"{self._url}{path}{f'?{urlencode(parameters)}' if parameters else ''}"

    def _unreachable(self, error: Exception) -> ServiceUnreachable:
        why = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        return ServiceUnreachable(f"{self.shown_url}: {why or type(error).__name__}")


async def _blocks(content: aiohttp.StreamReader) -> AsyncIterator[tuple[str, bytes]]:
    """Server-sent events: the fields `id` and `data` of each. An event that is too long ends it."""
    buffer = bytearray()
    async for chunk in content.iter_any():
        buffer += chunk
        while (end := buffer.find(b"\n\n")) >= 0:
            block = bytes(buffer[:end])
            del buffer[: end + 2]
            fields = dict(line.partition(b": ")[::2] for line in block.split(b"\n"))
            yield fields.get(b"id", b"").decode(), fields.get(b"data", b"")
            await asyncio.sleep(0)  # many that come at once do not stop the screen
        if len(buffer) > EVENT_BYTES_MAX:
            return
