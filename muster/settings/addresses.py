"""The addresses of Redis and of databases: where they come from, how they are checked and shown.

Passwords are before the `@`, or in the query, where redis-py and libpq read them too. None of them
may reach a terminal, a log, a file that others read or an answer of the gateway.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from eventstore.errors import ConfigurationError

HIDDEN: Final = "***"
VALUE_SHOWN: Final = 40
"""Characters of a value that is refused."""
ADDRESSES: Final = {
    "redis_url": "REDIS_URL",
    "database_url": "DATABASE_URL",
    "pgbouncer_url": "PGBOUNCER_URL",
}
"""The settings that are addresses, and the variable that other tools read for each."""
OF_MUSTER: Final = ("redis_url", "database_url")
"""Those that an embedded server replaces; the others are the agents'."""

_LOGIN: Final = re.compile(
    r"(?P<user>[a-z][a-z0-9+.-]*://[^:/?#@]*):(?:(?!\?[^#@?=]*=).)*@", re.IGNORECASE | re.DOTALL
)
"""Up to the last `@` before the query: a password may contain what should be percent-encoded."""
_SECRET: Final = re.compile(r"password|passwd|secret|token|scram_\w+_key", re.IGNORECASE)
_NAME: Final = re.compile("[a-z_]{1,40}")
"""What does not match may be a part of a password."""
_BARE_PERCENT: Final = re.compile("%(?![0-9a-fA-F]{2})")
ENCODING: Final = "a password's @ : / ? # % are to be written as %40 %3A %2F %3F %23 %25"
_DATABASE: Final = re.compile(r"/?|/\d+/?", re.ASCII)
_ANY: Final = re.compile(r".+", re.DOTALL)
_NUMBER: Final = (re.compile(r"\d+", re.ASCII), "a number")
_SWITCH: Final = (re.compile(r"true|false|yes|no|1|0", re.IGNORECASE), "true or false")
_VALUES: Final = {
    "db": _NUMBER,
    "socket_keepalive": _SWITCH,
    "ssl_check_hostname": _SWITCH,
    "ssl_cert_reqs": (re.compile("none|optional|required"), "none, optional or required"),
}
_COMMON: Final = ("db", "username", "password", "client_name")
_BY_TCP: Final = (*_COMMON, "socket_keepalive")
_FILES: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password")
_BY_TLS: Final = (*_BY_TCP, *_FILES, "ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers")
_PARAMETERS: Final = {"unix": _COMMON, "redis": _BY_TCP, "rediss": _BY_TLS}


def redacted(url: str) -> str:
    """An address, or a text meant as one, without its passwords."""
    before, mark, query = _LOGIN.sub(rf"\g<user>:{HIDDEN}@", url, count=1).partition("?")
    return before + mark + "&".join(_redacted_parameter(part) for part in query.split("&"))


def _redacted_parameter(part: str) -> str:
    name, mark, _ = part.partition("=")
    return f"{name}={HIDDEN}" if mark and _SECRET.search(unquote(name)) else part


def environment_value(name: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """A setting as the environment names it, and the variable that does.

    Of an address, variables that other tools use count where ours is not set. Raises
    `ConfigurationError`.
    """
    for variable in (f"MUSTER_{name.upper()}", ADDRESSES.get(name, "")):
        if environment.get(variable):
            return environment[variable], variable
    if name == "redis_url" and environment.get("REDIS_HOST"):
        return _redis_parts(environment), "REDIS_HOST"
    return None


def service_hint(value: object) -> str:
    """Where a number is expected and Kubernetes has set the address of a Service: what to do."""
    if not str(value).startswith(("tcp://", "udp://", "sctp://")):
        return ""
    return " (Kubernetes sets it for a Service of that name: set it, or enableServiceLinks: false)"


def _redis_parts(environment: Mapping[str, str]) -> str:
    password = environment.get("REDIS_PASSWORD", "")
    try:
        login = f":{quote(password, safe='')}@" if password else ""
    except UnicodeEncodeError:
        raise ConfigurationError("REDIS_PASSWORD: expected UTF-8") from None
    port, number = environment.get("REDIS_PORT") or "6379", environment.get("REDIS_DB") or "0"
    for variable, value in (("REDIS_PORT", port), ("REDIS_DB", number)):
        if not (value.isascii() and value.isdigit()):
            raise ConfigurationError(
                f"{variable}: expected a whole number, got {value[:VALUE_SHOWN]!r}"
                f"{service_hint(value)}"
            )
    return f"redis://{login}{environment['REDIS_HOST']}:{port}/{number}"


def validate_address(url: str, source: str, *, reserved: str = "@:/?#") -> None:
    """Raises `ConfigurationError`, without the address; `source` is where it was named.

    `reserved`: what a password may not contain as it is, except `%`.
    """
    if login := _LOGIN.match(url):
        password = url[login.end("user") + 1 : login.end() - 1]
        if any(character in reserved for character in password) or _BARE_PERCENT.search(password):
            raise ConfigurationError(f"{source}: {ENCODING}")
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise ConfigurationError(
            f"{source}: this is not an address: the text in brackets or the port is wrong"
            f" ({ENCODING})"
        ) from None


def same_database(one: str, other: str) -> bool:
    """Whether two addresses lead to one database as one user, perhaps by different ways."""
    return _login(one) == _login(other)


def _login(url: str) -> tuple[str, str, str]:
    scheme, _, rest = url.partition("://")
    kind = scheme.partition("+")[0].removesuffix("ql")
    try:
        parts = urlsplit(f"x://{rest}")
    except ValueError:
        return kind, "", rest
    query = dict(parse_qsl(parts.query))
    name = query.get("dbname") or unquote(parts.path)
    return kind, query.get("user") or unquote(parts.username or ""), name.strip("/")


def database_address(url: str, source: str) -> str:
    """The address of a database. Raises `ConfigurationError`, as above."""
    validate_address(url, source)
    scheme = url.partition("://")[0].partition("+")[0]
    if "://" not in url or scheme not in ("sqlite", "postgresql", "postgres"):
        named = scheme if "://" in url and _NAME.fullmatch(scheme) else "something else"
        raise ConfigurationError(
            f"{source}: expected postgresql://user@host/database or sqlite:///path, not {named}"
        )
    if scheme == "sqlite" and not url.partition(":///")[2].partition("?")[0]:
        raise ConfigurationError(f"{source}: expected the path of a file, sqlite:///path")
    return url


def is_host_name(text: str) -> bool:
    """Whether it can be resolved: its parts are not empty, nor too long."""
    try:
        return bool(text.encode("idna"))
    except UnicodeError:
        return False


def sqlite_address(path: Path) -> str:
    """The address of an SQLite file, whatever the names of its folders: `?` begins the query."""
    return f"sqlite:///{quote(str(path.absolute()))}"


def redis_address(url: str, source: str) -> str:
    """The address of a Redis as redis-py reads it. Raises `ConfigurationError`, as above.

    The query overrides the options that Muster itself sets for a connection, so it may only name
    the login and how the connection is made.
    """
    validate_address(url, source, reserved="/?#")
    if url.startswith(("valkey://", "valkeys://")):
        url = "redis" + url.removeprefix("valkey")
    parts = urlsplit(url)
    allowed = _PARAMETERS.get(parts.scheme)
    if allowed is None:
        raise ConfigurationError(f"{source}: expected redis://, rediss://, valkey:// or unix://")
    if parts.scheme == "unix" and not parts.path:
        raise ConfigurationError(f"{source}: expected the path of a socket, unix:///path/to/it")
    if parts.scheme != "unix" and not _DATABASE.fullmatch(parts.path):
        raise ConfigurationError(f"{source}: what follows the host is the number of a database")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in allowed:
            what = name if _NAME.fullmatch(name) and "@" not in parts.query else "what is there"
            raise ConfigurationError(
                f"{source}: {what} cannot be set in the query of a {parts.scheme}:// address;"
                f" these can: {', '.join(allowed)}"
            )
        pattern, expected = _VALUES.get(name, (_ANY, "a value"))
        if not pattern.fullmatch(value):
            raise ConfigurationError(f"{source}: {name} is to be {expected}")
    return url
