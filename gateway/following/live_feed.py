"""What open dashboards are sent: a picture when they come, then what changed, made once for all.

A picture is sections of entries by name. All clients that may see the same are one audience: what
changed is found and encoded once for it, and written to each connection from one loop. What a
client does not read is never queued: its connection is passed over until all is sent, and
then it gets the whole picture as it is by then.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeAlias

import msgspec
from aiohttp.http import StreamWriter
from msgspec import Struct, field

from gateway.wire.problems import Kind, Problem

CLIENTS_MAX: Final = 1_000
Sections: TypeAlias = Mapping[str, Mapping[str, Any]]
Audience: TypeAlias = tuple[str, ...] | None
"""The pools that clients may see; None: all."""


def difference(old: Sections, new: Sections) -> dict[str, dict[str, Any]]:
    """Entries that are new or differ; null for those that are gone."""
    changes: dict[str, dict[str, Any]] = {}
    for name in new.keys() | old.keys():
        before, after = old.get(name, {}), new.get(name, {})
        changed = {key: entry for key, entry in after.items() if before.get(key) != entry}
        changed |= dict.fromkeys(before.keys() - after.keys())
        if changed:
            changes[name] = changed
    return changes


def message(kind: str, number: int, content: object) -> bytes:
    """One server-sent event."""
    return b"event: %s\nid: %d\ndata: %s\n\n" % (
        kind.encode(), number, msgspec.json.encode(content)
    )  # fmt: skip


class Client(Struct, eq=False):
    """One connection."""

    writer: StreamWriter
    transport: asyncio.WriteTransport
    valid: Callable[[], bool]
    """Whether it may still see what it is sent."""
    number: int = -1
    """Of the message that it was sent last; -1: it needs the whole picture."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_idle(self) -> bool:
        return not self.transport.get_write_buffer_size()

    async def send(self, content: bytes, number: int) -> None:
        """Never waits: what a client does not read is bounded by one message."""
        try:
            await self.writer.write(content, drain=False)
        except ConnectionError:
            self.closed.set()
        self.number = number


class Picture(Struct, eq=False):
    """What one audience sees, as it was sent last."""

    clients: set[Client] = field(default_factory=set)
    sections: Sections = field(default_factory=dict)
    proof: Any = None
    number: int = 0
    whole: bytes = b""
    """The message with all of it; empty until a client needs it."""

    def encoded(self) -> bytes:
        if not self.whole:
            content = {"sections": self.sections, "proof": self.proof}
            self.whole = message("picture", self.number, content)
        return self.whole


class LiveFeed:
    """All clients, by audience."""

    def __init__(self) -> None:
        self._pictures: dict[Audience, Picture] = {}
        self._closed = False
        self.wanted = asyncio.Event()
        """Set while someone is connected."""
        self.arrived = asyncio.Event()
        """Set when someone comes who has no picture yet."""

    def __len__(self) -> int:
        return sum(len(picture.clients) for picture in self._pictures.values())

    @property
    def audiences(self) -> list[Audience]:
        return list(self._pictures)

    def require_capacity(self) -> None:
        """Raises `Problem` if there are too many clients."""
        if len(self) >= CLIENTS_MAX:
            detail = f"{CLIENTS_MAX} dashboards are open already"
            raise Problem(Kind.TOO_MANY_STREAMS, detail)

    @contextmanager
    def subscribe(self, audience: Audience, client: Client) -> Iterator[None]:
        """Send to a client whose answer has started."""
        if self._closed:
            client.closed.set()
        picture = self._pictures.setdefault(audience, Picture())
        picture.clients.add(client)
        self.wanted.set()
        self.arrived.set()
        try:
            yield
        finally:
            picture.clients.discard(client)
            if not picture.clients and self._pictures.get(audience) is picture:
                del self._pictures[audience]
            if not self._pictures:
                self.wanted.clear()

    async def publish(self, audience: Audience, sections: Sections, proof: object) -> None:
        """Let an audience see this. `proof`: when and how it was found, sent each time."""
        picture = self._pictures.get(audience)
        if picture is None:
            return
        changes = difference(picture.sections, sections)
        picture.number += 1
        picture.sections, picture.proof, picture.whole = sections, proof, b""
        content = {"sections": changes, "proof": proof} if changes else {"proof": proof}
        patch = message("patch", picture.number, content)
        for client in list(picture.clients):
            if not client.valid():
                client.closed.set()
            elif not client.is_idle:
                client.number = -1
            elif client.number == picture.number - 1:
                await client.send(patch, picture.number)
            else:
                await client.send(picture.encoded(), picture.number)

    async def welcome(self) -> bool:
        """Send those who have just come the picture that there is; False if one has none yet."""
        self.arrived.clear()
        complete = True
        for picture in list(self._pictures.values()):
            new = [client for client in picture.clients if client.number < 0 and client.is_idle]
            if new and not picture.number:
                complete = False
            elif new:
                for client in new:
                    await client.send(picture.encoded(), picture.number)
        return complete

    def close(self) -> None:
        """End all connections: the gateway stops."""
        self._closed = True
        for picture in self._pictures.values():
            for client in picture.clients:
                client.closed.set()


async def until_closed(client: Client, check_seconds: float) -> None:
    """Return when a client is closed, or its token is no longer valid."""
    while not client.closed.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(check_seconds):
                await client.closed.wait()
        if not client.valid():
            return
