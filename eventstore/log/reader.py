"""Reads streams from a position onward, never from `$`.

A caller reads on after the last id it has read. If the stream was trimmed past that id, it notices
the gap in `seq`. Each reader has connections of its own.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from eventstore.connection import calls
from eventstore.connection.clients import Client

BLOCK_SECONDS = 5.0
GROUP = 100
"""Streams in one call. Each call that has waited costs in proportion to its streams."""

Entry = tuple[bytes, Sequence[bytes]]
"""An entry as Redis returns it: its id, then names and values in turn."""
Group: TypeAlias = tuple[tuple[str, str], ...]
"""Streams and positions."""


class Reader:
    """Tails any number of streams of one Redis node."""

    def __init__(self, url: str, *, block_seconds: float = BLOCK_SECONDS) -> None:
        self.block_ms = max(int(block_seconds * 1000), 1)
        self._client = Client(url, block_seconds=block_seconds)
        self._waiting: dict[int, tuple[Group, asyncio.Task[dict[str, list[Entry]]]]] = {}
        """By the number of the group: with which positions a call was sent that waits."""

    async def read(
        self, positions: Mapping[str, str], *, count: int = 1000, block: bool = True
    ) -> dict[str, list[Entry]]:
        """Entries after the given ids, by stream; empty if none came within the block time.

        It waits as long if there is no stream to read, for callers that read in a loop. Many
        streams are waited for in groups: the others go on waiting while one has been read.
        """
        if not positions:
            await asyncio.sleep(self.block_ms / 1000 if block else 0)
            return {}
        groups = _groups(tuple(positions.items()))
        self._drop_except(groups if block else [])
        if len(groups) == 1:
            return await self._read(groups[0], count, block=block)
        found: dict[str, list[Entry]] = {}
        if not block:
            for group in groups:
                found |= await self._read(group, count, block=False)
            return found
        for number, group in enumerate(groups):
            if number not in self._waiting:
                call = asyncio.create_task(self._read(group, count, block=True))
                call.add_done_callback(lambda done: done.cancelled() or done.exception())
                self._waiting[number] = group, call
        waiting = [call for _, call in self._waiting.values()]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        self._waiting = {n: one for n, one in self._waiting.items() if one[1] not in done}
        for call in done:
            found |= call.result()
        return found

    def _drop_except(self, groups: Sequence[Group]) -> None:
        """Give up calls that wait for other streams, or from other positions, or have failed."""
        for number, (group, call) in tuple(self._waiting.items()):
            failed = call.done() and call.exception() is not None
            if failed or number >= len(groups) or groups[number] != group:
                call.cancel()
                del self._waiting[number]

    async def _read(self, group: Group, count: int, *, block: bool) -> dict[str, list[Entry]]:
        streams, ids = zip(*group, strict=True)
        wait = ("BLOCK", self.block_ms) if block else ()
        raw = await self._call("XREAD", "COUNT", count, *wait, "STREAMS", *streams, *ids)
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
        self._waiting = {}

    async def close(self) -> None:
        await self._client.aclose()
        self._waiting = {}

    async def _call(self, *command: str | int) -> Any:
        with calls.translated_errors(f"{command[0]} failed"):
            return await calls.execute_blocking(self._client, *command)


def _groups(items: Group) -> list[Group]:
    """The first has the first stream and the newest: the catalogue is there, and what it adds."""
    first, others = items[:1], items[1:]
    full = len(others) // GROUP * GROUP
    return [first + others[full:], *(others[at : at + GROUP] for at in range(0, full, GROUP))]
