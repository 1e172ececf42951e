"""`Idempotency-Key`: a request that is repeated is known by its key, and must be the same.

The same is what was sent, not what it means with the defaults of the moment: those may change
between two attempts.
"""

import hashlib
import re
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec.structs import asdict

from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import SpawnRequest

_KEY: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
_WHOLE_MAX: Final = 2.0**53
"""Below it a float that is whole is exactly that integer."""
_FIRST_FIELDS: Final = frozenset(
    ("project_id", "role_type", "pool_name", "heartbeat_interval", "max_idle_time", "input",
     "labels", "pending_timeout")
)  # fmt: skip
"""Fields of a spawn that every version had, and digests even where they are not set."""


def idempotency_key(request: web.Request) -> str:
    """The request's `Idempotency-Key`; empty if it has none. Raises `Problem`."""
    key: str | None = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        detail = "Idempotency-Key: 1 to 255 printable ASCII characters"
        raise Problem(Kind.INVALID_REQUEST, detail, field="Idempotency-Key")
    return key or ""


def operation_id(key: str, owner: str = "") -> str:
    """The operation id of a key. `owner`: the named token that it is of; each has its own keys."""
    of_owner = f"{owner}\0{key}" if owner else key
    return f"key:{hashlib.sha256(of_owner.encode()).hexdigest()[:40]}"


def canonical_form(value: object) -> bytes:
    """The same for what is the same JSON: order, spaces and 1.0 for 1 do not count."""
    return msgspec.json.encode(_canonical(value), order="deterministic")


def digest_of(canonical: bytes) -> str:
    """The digest of a body in its canonical form."""
    return hashlib.sha256(canonical).hexdigest()


def _canonical(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {
            name: inner if type(inner) is str else _canonical(inner)
            for name, inner in value.items()
        }
    if kind is list:
        return [_canonical(inner) for inner in value]
    whole = kind is float and value.is_integer() and abs(value) < _WHOLE_MAX
    return int(value) if whole else value


def digest_of_meaning(spawn_request: SpawnRequest) -> str:
    """What earlier versions recorded: with defaults, where a request does not set a field.

    A field that was added later counts only where it is set.
    """
    usual = type(spawn_request)(project_id="", role_type="", pool_name="")
    content = b",".join(
        b'"%b":%b' % (name.encode(), msgspec.json.encode(value, order="deterministic"))
        for name, value in asdict(spawn_request).items()
        if name in _FIRST_FIELDS or value != getattr(usual, name)
    )
    return hashlib.sha256(b"{%b}" % content).hexdigest()
