"""Clients of Redis as the log needs them: nothing is sent twice, and replies stay as they came.

A client's calls share one connection. One that may block the connection for long, such as a
reader's, gets one for itself, which the next such call uses again.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, Final, Self
from weakref import WeakSet

from eventstore import redis_errors
from eventstore.connection import thread_client
from eventstore.connection.address import Address, check_greeting
from eventstore.connection.reply_parser import Argument, Command
from eventstore.connection.wire import NotSent, Wire
from eventstore.ticks import within

SOCKET_SECONDS = 5.0
"""How long connecting, and a reply beyond a command's own block time, may take."""
CLOSE_SECONDS: Final = 1.0
_clients: Final[WeakSet["Client"]] = WeakSet()


class Client:
    """Calls one Redis."""

    def __init__(self, url: str, *, block_seconds: float = 0.0) -> None:
        self.address = Address(url)
        self._block_seconds = block_seconds
        self._timeout_seconds = block_seconds + SOCKET_SECONDS
        self._wires: set[Wire] = set()
        self._shared: Wire | None = None
        self._opening: asyncio.Task[Wire] | None = None
        self._idle: list[Wire] = []
        self._closed = False
        _clients.add(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # ---- calls ---------------------------------------------------------------------------------

    async def execute_command(self, *command: Argument) -> Any:
        """A command's reply. Raises a `RedisError`, such as `NotSent`.

        If the server has become a replica, its connections are closed: the address may lead to
        another server by now.
        """
        wire = self._shared
        if wire is None or not wire.usable:
            wire = await self._connected()
        try:
            return await wire.call(command)
        except redis_errors.ReadOnlyError:
            self._retire()
            raise

    async def execute_all(self, commands: Sequence[Command], *, atomic: bool = False) -> list[Any]:
        """The replies to some commands, sent together; an error is a reply too.

        `atomic`: as one transaction. Raises as `execute_command` if that was refused as a whole.
        """
        if not commands:
            return []
        wire = self._shared
        if wire is None or not wire.usable:
            wire = await self._connected()
        if not atomic:
            return await wire.call_all(commands)
        *queued, replies = await wire.call_all([("MULTI",), *commands, ("EXEC",)])
        if isinstance(replies, Exception):
            raise next((reply for reply in queued if isinstance(reply, Exception)), replies)
        return list(replies)

    async def execute_blocking(self, *commands: Command) -> list[Any]:
        """Like `execute_all` on a connection that no other call waits for.

        It is closed if the caller is cancelled: a reply may still come.
        """
        wire = await self._exclusive()
        try:
            replies = await wire.call_all(commands)
        except BaseException:
            wire.abort()
            raise
        if wire.usable:
            self._idle.append(wire)
        return replies

    async def info(self, *sections: str) -> dict[str, str]:
        """The fields of INFO."""
        text = await self.execute_command("INFO", *sections)
        lines = (line.partition(":") for line in text.decode().splitlines() if line[:1] != "#")
        return {name: value for name, _, value in lines if name}

    # ---- connections ---------------------------------------------------------------------------

    def drop(self) -> None:
        """Close all connections: running calls fail now, as if the server had disconnected."""
        for wire in self._wires:
            wire.abort()

    async def aclose(self) -> None:
        """Close all connections, and open no more."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        closed = [wire.closed for wire in self._wires]
        self.drop()
        if closed:
            await asyncio.wait(closed, timeout=CLOSE_SECONDS)

    def filenos(self) -> set[int]:
        return {wire.fileno() for wire in self._wires} - {-1}

    def _retire(self) -> None:
        for wire in [self._shared, *self._idle]:
            if wire is not None:
                wire.retire()

    async def _connected(self) -> Wire:
        """The connection that calls share; one is opened for all that ask meanwhile."""
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._opened)
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if opening.cancelled() and not (task and task.cancelling()):
                self._require_open()  # it was closed; this call was not cancelled
            raise

    def _opened(self, opening: "asyncio.Task[Wire]") -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._shared = opening.result()

    async def _exclusive(self) -> Wire:
        while self._idle:
            if (wire := self._idle.pop()).usable:
                return wire
        return await self._open(self._block_seconds)

    async def _open(self, block_seconds: float | None = None) -> Wire:
        self._require_open()
        wire = Wire(self._timeout_seconds, block_seconds=block_seconds)
        self._wires.add(wire)
        wire.closed.add_done_callback(lambda _: self._wires.discard(wire))
        try:
            await within(SOCKET_SECONDS, self._connect(wire))
            self._require_open()
        except BaseException as error:
            self._wires.discard(wire)
            wire.abort()
            if isinstance(error, TimeoutError):
                raise NotSent("Timeout connecting to server") from error
            if isinstance(error, OSError):
                raise NotSent(f"Error connecting to {self.address}. {error}.") from error
            if type(error) is redis_errors.RedisConnectionError:
                raise NotSent(str(error)) from (error.__cause__ or error)
            raise
        return wire

    def _require_open(self) -> None:
        if self._closed:
            raise NotSent("this client was closed")

    async def _connect(self, wire: Wire) -> None:
        await self._dial(wire)
        check_greeting(await wire.call_all(self.address.greeting()))

    async def _dial(self, wire: Wire) -> None:
        address, loop = self.address, asyncio.get_running_loop()
        if address.path:
            await loop.create_unix_connection(lambda: wire, address.path)
            return
        transport, _ = await loop.create_connection(
            lambda: wire, address.host, address.port, ssl=address.tls_context()
        )
        if address.keeps_alive:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def open_sockets() -> set[int]:
    """The descriptors of all connections of this process. For a forked child to drop them."""
    numbers: set[int] = set()
    for client in _clients:
        numbers |= client.filenos()
    return numbers | {client.fileno() for client in thread_client.clients} - {-1}
