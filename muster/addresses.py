"""The addresses of Redis and of databases: that they are some, and how they are shown to people.

What lets one in stands before the `@`, or in the query, where redis-py and libpq take it too. None
of it may reach a terminal, a log, a file that others read or an answer of the gateway.
"""

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from eventstore.errors import ConfigurationError

HIDDEN: Final = "***"

_LOGIN: Final = re.compile(
    r"(?P<user>[a-z][a-z0-9+.-]*://[^:/?#@]*):(?:(?!\?[^#@?=]*=).)*@", re.IGNORECASE | re.DOTALL
)
"""Up to the last `@` before the query: a password may hold what should be percent-encoded."""
_SECRET: Final = re.compile(r"password|passwd|secret|token|scram_\w+_key", re.IGNORECASE)


def redacted(url: str) -> str:
    """An address, or what was meant to be one, without its passwords."""
    before, mark, query = _LOGIN.sub(rf"\g<user>:{HIDDEN}@", url, count=1).partition("?")
    return before + mark + "&".join(_parameter(part) for part in query.split("&"))


def _parameter(part: str) -> str:
    name, mark, _ = part.partition("=")
    return f"{name}={HIDDEN}" if mark and _SECRET.search(unquote(name)) else part


def demand_address(url: str, source: str) -> None:
    """Without showing it. Raises `ConfigurationError`; `source` is where it was named."""
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise ConfigurationError(
            f"{source}: this is not an address: what stands in brackets or as port is wrong"
            " (in a password, / ? # and % must be percent-encoded)"
        ) from None
