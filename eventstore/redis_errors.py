"""What may go wrong in a call of Redis, before the log gives it a meaning (see `errors`).

RedisError
├── RedisConnectionError     not connected, or the connection was lost
│   ├── AuthenticationError
│   └── BusyLoadingError     the server reads its data
├── RedisTimeoutError        no reply in time
├── InvalidResponse          a reply that no Redis sends
└── ResponseError            the server has refused
    ├── OutOfMemoryError, NoScriptError, NoPermissionError
    └── TransientError       it will stop refusing by itself
        └── ReadOnlyError    it is a replica
"""

from typing import Final


class RedisError(Exception):
    """Redis was called in vain."""


class RedisConnectionError(RedisError):
    """There is no connection."""


class AuthenticationError(RedisConnectionError):
    """The login is refused."""


class BusyLoadingError(RedisConnectionError):
    """The server reads its data."""


class RedisTimeoutError(RedisError):
    """There was no reply in time."""


class InvalidResponse(RedisError):
    """No Redis sends such a reply."""


class ResponseError(RedisError):
    """The server has refused."""


class OutOfMemoryError(ResponseError):
    """`maxmemory` is reached."""


class NoScriptError(ResponseError):
    """The server does not have the script."""


class NoPermissionError(ResponseError):
    """The login may not do that."""


class TransientError(ResponseError):
    """The server will stop refusing by itself."""


class ReadOnlyError(TransientError):
    """It is a replica."""


_BY_CODE: Final[dict[str, type[RedisError]]] = {
    "OOM": OutOfMemoryError,
    "WRONGPASS": AuthenticationError,
    "NOAUTH": AuthenticationError,
    "LOADING": BusyLoadingError,
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
    "NOPERM": NoPermissionError,
}
"""For replies that begin so."""
_TRANSIENT: Final = frozenset(
    ("BUSY", "MISCONF", "NOREPLICAS", "UNBLOCKED", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN")
)
"""For these a `TransientError`, whose text has the code; for all others a `ResponseError`."""


def error_of(reply: str) -> RedisError:
    """The error that a server has replied with; its text has no code that the class says."""
    code, _, text = reply.partition(" ")
    if kind := _BY_CODE.get(code):
        return kind(text)
    if code in _TRANSIENT:
        return TransientError(reply)
    if code != "ERR":
        return ResponseError(reply)
    if text == "max number of clients reached":
        return RedisConnectionError(text)
    if "without any password configured" in text:
        return AuthenticationError(text)
    return ResponseError(text)
