"""Clients of Redis as the log needs them: nothing is sent twice, and replies stay as they came.

A client's calls share one connection. One that may block the connection for long, such as a
reader's, gets one for itself, which the next such call uses again.
"""

import asyncio
import socket
from collections.abc import Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakSet

from redis import Redis as SyncRedis
from redis import exceptions
from redis.asyncio.connection import SSLConnection, parse_url
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.retry import Retry

from eventstore.connection.wire import Argument, Command, NotSent, Wire

SOCKET_SECONDS = 5.0
"""How long connecting, and a reply beyond a command's own block time, may take."""
CLOSE_SECONDS: Final = 1.0
_PRODUCT: Final = (
    ("CLIENT", "SETINFO", "LIB-NAME", "agent-muster"),
    ("CLIENT", "SETINFO", "LIB-VER", version("agent-muster")),
)
"""Shown by CLIENT LIST; servers before 7.2 refuse it."""
DRIVER = DriverInfo()
"""Sent by each connection; redis-py would read its package's files for each of them again."""
_clients: Final[WeakSet["Client"]] = WeakSet()
_sync_pools: Final[WeakSet[Any]] = WeakSet()


class Client:
    """Calls one Redis, at an address in redis-py's form."""

    def __init__(self, url: str, *, block_seconds: float = 0.0) -> None:
        self.options: dict[str, Any] = dict(parse_url(url))
        """As redis-py names them."""
        self.by_tls = self.options.pop("connection_class", None) is SSLConnection
        self._timeout_seconds = block_seconds + SOCKET_SECONDS
        self._wires: set[Wire] = set()
        self._shared: Wire | None = None
        self._opening: asyncio.Task[Wire] | None = None
        self._idle: list[Wire] = []
        self._closed = False
        _clients.add(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self.aclose()

    # ---- calls ---------------------------------------------------------------------------------

    async def execute_command(self, *command: Argument) -> Any:
        """A command's reply. Raises redis-py's errors, and `NotSent`.

        If the server has become a replica, its connections are closed: the address may lead to
        another server by now.
        """
        wire = self._shared
        if wire is None or not wire.usable:
            wire = await self._connected()
        try:
            return await wire.call(command)
        except exceptions.ReadOnlyError:
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
        return await self._open()

    async def _open(self) -> Wire:
        self._require_open()
        wire = Wire(self._timeout_seconds)
        self._wires.add(wire)
        wire.closed.add_done_callback(lambda _: self._wires.discard(wire))
        try:
            async with asyncio.timeout(SOCKET_SECONDS):
                await self._dial(wire)
                await self._greet(wire)
            self._require_open()
        except BaseException as error:
            self._wires.discard(wire)
            wire.abort()
            if isinstance(error, TimeoutError):
                raise NotSent("Timeout connecting to server") from error
            if isinstance(error, OSError):
                raise NotSent(f"Error connecting to {self._where()}. {error}.") from error
            if type(error) is exceptions.ConnectionError:
                raise NotSent(str(error)) from (error.__cause__ or error)
            raise
        return wire

    def _require_open(self) -> None:
        if self._closed:
            raise NotSent("this client was closed")

    async def _dial(self, wire: Wire) -> None:
        options, loop = self.options, asyncio.get_running_loop()
        if path := options.get("path"):
            await loop.create_unix_connection(lambda: wire, path)
            return
        tls = SSLConnection(**options).ssl_context.get() if self.by_tls else None
        transport, _ = await loop.create_connection(
            lambda: wire, options.get("host", "localhost"), options.get("port", 6379), ssl=tls
        )
        if options.get("socket_keepalive"):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    async def _greet(self, wire: Wire) -> None:
        """Log in and choose the database, as the address says. Raises what the server replies."""
        options = self.options
        commands: list[Command] = []
        if options.get("username") or options.get("password"):
            login = (options.get("username"), options.get("password", ""))
            commands.append(("AUTH", *(text for text in login if text is not None)))
        if options.get("client_name"):
            commands.append(("CLIENT", "SETNAME", options["client_name"]))
        if options.get("db"):
            commands.append(("SELECT", int(options["db"])))
        replies = await wire.call_all([*commands, *_PRODUCT])
        for reply in replies[: len(commands)]:
            if isinstance(reply, Exception):
                raise reply

    def _where(self) -> str:
        options = self.options
        return str(
            options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        )


def connect_sync(url: str, *, timeout_seconds: float) -> SyncRedis:
    """A client for a thread, such as the one that renews a lease.

    redis-py would retry by itself, which can repeat a write whose reply was lost; that is off.
    """
    client = SyncRedis.from_url(
        url,
        protocol=2,
        health_check_interval=0,
        driver_info=DRIVER,
        max_connections=1,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
    )
    _sync_pools.add(client.connection_pool)
    return client


def open_sockets() -> set[int]:
    """The descriptors of all connections of this process. For a forked child to drop them."""
    numbers: set[int] = set()
    for client in _clients:
        numbers |= client.filenos()
    for pool in _sync_pools:
        for connection in (*pool._available_connections, *pool._in_use_connections):
            if connection._sock is not None:
                numbers.add(connection._sock.fileno())
    return numbers
