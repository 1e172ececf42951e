"""A client for a thread, such as the one that renews a lease: one call at a time, nothing else.

It connects when it is called, and sends nothing twice: a call that fails may have been carried out.
"""

import contextlib
import socket
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

from eventstore.connection.address import Address, check_greeting
from eventstore.connection.reply_parser import (
    CLOSED,
    INCOMPLETE,
    TIMED_OUT,
    Argument,
    Command,
    new_parser,
    packed,
    unreadable,
)
from eventstore.redis_errors import ReadOnlyError, RedisConnectionError, RedisTimeoutError

clients: WeakSet["ThreadClient"] = WeakSet()
"""Of this process."""


class ThreadClient:
    """Calls one Redis; connecting, and each part of a reply, may take `timeout_seconds`."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._address = Address(url)
        self._timeout_seconds = timeout_seconds
        self._socket: socket.socket | None = None
        clients.add(self)

    def call(self, *command: Argument) -> Any:
        """The command's reply. Raises a `RedisError`, and closes the connection where one is lost.

        So it does where the server is a replica now: the address may lead elsewhere.
        """
        if self._socket is None:
            self._connect()
        (reply,) = self._exchange([command])
        if isinstance(reply, ReadOnlyError):
            self.close()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def fileno(self) -> int:
        """The socket's descriptor; -1 if there is none."""
        return -1 if self._socket is None else self._socket.fileno()

    def close(self) -> None:
        """The next call connects again."""
        found, self._socket = self._socket, None
        if found is not None:
            with contextlib.suppress(OSError):
                found.close()

    def _connect(self) -> None:
        address = self._address
        try:
            if address.path:
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.settimeout(self._timeout_seconds)
                self._socket.connect(address.path)
            else:
                where = (address.host, address.port)
                self._socket = socket.create_connection(where, self._timeout_seconds)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if address.keeps_alive:
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if (tls := address.tls_context()) is not None:
                self._socket = tls.wrap_socket(self._socket, server_hostname=address.host)
            self._parser = new_parser()
            check_greeting(self._exchange(address.greeting()))
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise RedisConnectionError(f"Error connecting to {address}. {error}.") from error
            raise

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The replies, errors too; the connection is closed where one does not come."""
        assert self._socket is not None
        replies: list[Any] = []
        try:
            self._socket.sendall(packed(commands))
            while len(replies) < len(commands):
                if (reply := self._parser.gets()) is not INCOMPLETE:
                    replies.append(reply)
                elif data := self._socket.recv(65536):
                    self._parser.feed(data)
                else:
                    raise ConnectionError(CLOSED)
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise RedisTimeoutError(TIMED_OUT) from error
            if isinstance(error, OSError):
                raise RedisConnectionError(str(error)) from error
            if isinstance(error, Exception):
                raise unreadable(error) from error
            raise
        return replies
