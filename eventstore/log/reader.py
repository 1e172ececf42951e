"""Reads streams from a position onward, never from `$`.

A caller reads on after the last id it has read. If the stream was trimmed past that id, it notices
the gap in `seq`. Each reader has a connection of its own.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from eventstore.connection import calls
from eventstore.connection.clients import Client

BLOCK_SECONDS = 5.0

Entry = tuple[bytes, Sequence[bytes]]
"""An entry as Redis returns it: its id, then names and values in turn."""


class Reader:
    """Tails any number of streams of one Redis node."""

    def __init__(self, url: str, *, block_seconds: float = BLOCK_SECONDS) -> None:
        self.block_ms = max(int(block_seconds * 1000), 1)
        self._client = Client(url, block_seconds=block_seconds)

    async def read(
        self, positions: Mapping[str, str], *, count: int = 1000, block: bool = True
    ) -> dict[str, list[Entry]]:
        """Entries after the given ids, by stream; empty if none came within the block time.

        It waits as long if there is no stream to read, for callers that read in a loop.
        """
        if not positions:
            await asyncio.sleep(self.block_ms / 1000 if block else 0)
            return {}
        wait = ("BLOCK", self.block_ms) if block else ()
        command = ("XREAD", "COUNT", count, *wait, "STREAMS", *positions, *positions.values())
        raw = await self._call(*command)
        return {key.decode(): entries for key, entries in raw or ()}

    async def range(
        self, stream: str, first: str = "-", last: str = "+", *, count: int = 1000
    ) -> list[Entry]:
        """Entries between two ids, both included unless they start with `(`."""
        entries: list[Entry] = await self._call("XRANGE", stream, first, last, "COUNT", count)
        return entries

    async def newest(self, stream: str, last: str = "+", *, count: int = 1000) -> list[Entry]:
        """Entries up to an id, newest first."""
        entries: list[Entry] = await self._call("XREVRANGE", stream, last, "-", "COUNT", count)
        return entries

    async def last_id(self, stream: str) -> str:
        """The id of the last entry; `0` if there is none."""
        entries = await self.newest(stream, count=1)
        return str(entries[0][0].decode()) if entries else "0"

    async def abort(self) -> None:
        """End running calls with `LogUnreachable`; the next call connects again."""
        self._client.drop()

    async def close(self) -> None:
        await self._client.aclose()

    async def _call(self, *command: str | int) -> Any:
        with calls.translated_errors(f"{command[0]} failed"):
            return await calls.execute_blocking(self._client, *command)
