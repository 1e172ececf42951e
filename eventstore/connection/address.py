"""The address of a Redis, and what follows from it for each connection: TLS, login, database."""

import ssl
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from eventstore.connection.reply_parser import Command
from eventstore.redis_errors import RedisError
from eventstore.version import __version__

_PRODUCT: Final = (
    ("CLIENT", "SETINFO", "LIB-NAME", "agent-muster"),
    ("CLIENT", "SETINFO", "LIB-VER", __version__),
)
"""Shown by CLIENT LIST; servers before 7.2 refuse it."""
_TRUE: Final = ("true", "yes", "1")
_CERTIFICATES: Final = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


class Address:
    """Where a Redis is: `redis://`, `rediss://` or `unix://`, in the form that redis-py has made
    usual. Raises `ValueError` for what is none."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("expected redis://, rediss:// or unix://")
        self.by_tls = parts.scheme == "rediss"
        self.options: dict[str, str] = {k: v[0] for k, v in parse_qs(parts.query).items()}
        """Those of the query, by name."""
        for name in ("username", "password"):
            if text := getattr(parts, name):
                self.options[name] = unquote(text)
        self.path = unquote(parts.path) if parts.scheme == "unix" else ""
        """Of a socket; empty where it is a host's port."""
        self.host, self.port = unquote(parts.hostname or "localhost"), parts.port or 6379
        number = self.options.get("db") or ("" if self.path else parts.path.strip("/"))
        self.database = int(number or 0)

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    @property
    def keeps_alive(self) -> bool:
        """Whether its connections are to be probed by the system."""
        return self.options.get("socket_keepalive", "").lower() in _TRUE

    def tls_context(self) -> ssl.SSLContext | None:
        """None where it is without TLS. Raises `OSError` for files that cannot be used."""
        if not self.by_tls:
            return None
        found = self.options.get
        context = ssl.create_default_context()
        certificates = _CERTIFICATES[found("ssl_cert_reqs", "required")]
        checks_name = found("ssl_check_hostname", "true").lower() in _TRUE
        context.check_hostname = checks_name and certificates is not ssl.CERT_NONE
        context.verify_mode = certificates
        if (own := found("ssl_certfile")) or found("ssl_keyfile"):
            context.load_cert_chain(own or "", found("ssl_keyfile"), found("ssl_password"))
        if found("ssl_ca_certs") or found("ssl_ca_path"):
            context.load_verify_locations(found("ssl_ca_certs"), found("ssl_ca_path"))
        if ciphers := found("ssl_ciphers"):
            context.set_ciphers(ciphers)
        return context

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
