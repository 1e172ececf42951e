"""Named tokens: what each may do, and by which secrets it is known. Pure.

A token is what a caller of the HTTP API sends. The catalogue has a digest of each secret, never the
secret itself: whoever reads the log or the views cannot use what is there. A secret is 256 random
bits, so that a plain digest of it cannot be searched for.
"""

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from eventstore.language import events

SUBJECT: Final = "token:"
"""In front of a token's name it is the subject of its events: no pool or host has such a name."""
ACTORS: Final = frozenset(
    {"http", "configuration", "fallback", "worker", "supervisor", "projector", "muster"}
)
"""Actors of events that are not tokens: no token has such a name."""


class Scope(StrEnum):
    """What a token may do. `admin` is all of it."""

    READ = "read"
    SPAWN = "spawn"
    OPERATE = "operate"
    ADMIN = "admin"


class Secret(Struct, frozen=True):
    """One of a token's secrets. `expires_ms` is log time; 0: never."""

    digest: str
    created_ms: int
    expires_ms: int = 0

    def valid(self, now_ms: int) -> bool:
        return not self.expires_ms or now_ms < self.expires_ms


class Token(Struct, frozen=True, kw_only=True):
    """A token in the catalogue, until it is revoked. `pools`, `projects` None: all of them."""

    name: str
    scopes: tuple[str, ...]
    """Those of a later version are ignored."""
    pools: tuple[str, ...] | None = None
    projects: tuple[str, ...] | None = None
    secrets: tuple[Secret, ...] = ()
    """The newest first."""
    actor: str = ""
    """Who made it."""
    version: int = 0
    created_ms: int = 0
    changed_ms: int = 0

    @property
    def limited(self) -> bool:
        """Whether it is for some pools or projects only."""
        return self.pools is not None or self.projects is not None

    def valid(self, now_ms: int) -> bool:
        """Whether any of its secrets can be used."""
        return any(secret.valid(now_ms) for secret in self.secrets)


def subject_of(name: str) -> str:
    """The subject of a token's events."""
    return f"{SUBJECT}{name}"


def digest_of(secret: str) -> str:
    """What is recorded of a secret: SHA-256, in hexadecimal digits."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def evolve(token: Token | None, event: events.Event) -> Token:
    """Fold an event that made a token, or gave it a new secret. Raises `ValueError`."""
    match event.body:
        case events.TokenCreated() as body:
            return Token(
                name=event.subject.removeprefix(SUBJECT),
                scopes=body.scopes,
                pools=body.pools,
                projects=body.projects,
                secrets=(Secret(body.digest, event.ts, body.expires_ms),),
                actor=event.actor,
                version=1,
                created_ms=event.ts,
                changed_ms=event.ts,
            )
        case events.TokenRotated() as body if token is not None:
            latest = replace(token.secrets[0], expires_ms=body.previous_expires_ms)
            new = Secret(body.digest, event.ts, body.expires_ms)
            return replace(
                token, secrets=(new, latest), version=token.version + 1, changed_ms=event.ts
            )
        case _:
            raise ValueError(f"{event.type} of a token that does not exist")


def rotation(
    token: Token, digest: str, now_ms: int, *, overlap_ms: int, valid_ms: int | None
) -> events.TokenRotated:
    """A new secret for a token. The latest one is valid for `overlap_ms` more at most.

    Older ones end now: two are valid at once. The new one is valid for `valid_ms`, or (None) for as
    long as the latest one was to be.
    """
    latest, last_ms = token.secrets[0], max(now_ms + overlap_ms, 1)
    if valid_ms is None and latest.expires_ms:
        valid_ms = latest.expires_ms - latest.created_ms
    return events.TokenRotated(
        digest=digest,
        previous_expires_ms=min(latest.expires_ms or last_ms, last_ms),
        expires_ms=now_ms + max(valid_ms, 1) if valid_ms is not None else 0,
    )


def administered(tokens: Iterable[Token], now_ms: int) -> bool:
    """Whether one of these tokens can make and revoke others now."""
    return any(
        Scope.ADMIN in token.scopes and not token.limited and token.valid(now_ms)
        for token in tokens
    )


def without(tokens: Mapping[str, Token], name: str) -> list[Token]:
    """All but one of them, by its name."""
    return [token for token in tokens.values() if token.name != name]
