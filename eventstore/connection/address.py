"""The address of a Redis, and what follows from it for each connection: TLS, login, database."""

import ssl
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from eventstore.connection.reply_parser import Command
from eventstore.redis_errors import RedisError
from eventstore.version import __version__

_PRODUCT: Final = (
    ("CLIENT", "SETINFO", "LIB-NAME", "agent-muster"),
    ("CLIENT", "SETINFO", "LIB-VER", __version__),
)
"""Shown by CLIENT LIST; servers before 7.2 refuse it."""


class Address:
    """Where a Redis is: `redis://`, `rediss://` or `unix://`, with the options of redis-py.

    redis-py reads what has a query or TLS. What has neither is read here, to the same result:
    importing redis-py takes 8 MB in each process. Raises `ValueError` for what is no address.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("expected redis://, rediss:// or unix://")
        self.by_tls = parts.scheme == "rediss"
        self.options = _parsed(url) if parts.query or self.by_tls else _plain(parts)
        """By their names in redis-py."""
        self.path = self.options.get("path", "")
        """Of a socket; empty where it is a host's port."""
        self.host = self.options.get("host", "localhost")
        self.port = self.options.get("port", 6379)
        self.database = int(self.options.get("db", 0))

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    @property
    def keeps_alive(self) -> bool:
        """Whether its connections are to be probed by the system."""
        return bool(self.options.get("socket_keepalive"))

    def tls_context(self) -> ssl.SSLContext | None:
        """None where it is without TLS. Raises `OSError` for files that cannot be used."""
        if not self.by_tls:
            return None
        from redis.asyncio.connection import SSLConnection

        return SSLConnection(**self.options).ssl_context.get()

    def greeting(self) -> list[Command]:
        """What is sent first on a connection: the login, then which database, then who we are."""
        found = self.options.get
        commands: list[Command] = []
        if found("username") or found("password"):
            login = (found("username"), found("password", ""))
            commands.append(("AUTH", *(text for text in login if text is not None)))
        if name := found("client_name"):
            commands.append(("CLIENT", "SETNAME", name))
        if self.database:
            commands.append(("SELECT", self.database))
        return [*commands, *_PRODUCT]


def check_greeting(replies: Sequence[Any]) -> None:
    """Raises what the server has replied to a greeting, unless it only does not care who we are."""
    for reply in replies[: -len(_PRODUCT)]:
        if isinstance(reply, RedisError):
            raise reply


def _plain(parts: SplitResult) -> dict[str, Any]:
    names = ("username", "password")
    options: dict[str, Any] = {
        name: unquote(text) for name in names if (text := getattr(parts, name))
    }
    if parts.scheme == "unix":
        return {**options, "path": unquote(parts.path)}
    if parts.hostname:
        options["host"] = unquote(parts.hostname)
    if parts.port:
        options["port"] = parts.port
    if number := parts.path.strip("/"):
        options["db"] = int(number)
    return options


def _parsed(url: str) -> dict[str, Any]:
    from redis.asyncio.connection import parse_url

    options = dict(parse_url(url))
    options.pop("connection_class", None)
    return options
