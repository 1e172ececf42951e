"""Tokens: created, listed, given a new secret, revoked. Only who may administer all of it does so.

A secret is answered once, to the request that made it, and recorded nowhere: the log has a digest.
The first token must be able to administer the others, and so must one that is left, unless the
service has a token of its own: else no token could.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from msgspec import Struct

from eventstore.errors import LogError
from eventstore.keys import CATALOGUE
from eventstore.language import events, tokens
from eventstore.language.tokens import Token, subject_of
from eventstore.log.catalogue import ChangeResult, Decision
from eventstore.log.replies import Outcome
from eventstore.names import unknown_name
from gateway.backend.call import Call
from gateway.resources.durability import durability_request
from gateway.resources.pools import remember
from gateway.wire.answer import Answer
from gateway.wire.problems import Kind, Problem
from gateway.wire.token_requests import RotateRequest, TokenName, TokenRequest
from projector.queries.views import Timed

PREFIX: Final = "muster_"
"""Of every secret, so that people and scanners know what they have found."""
SECRET_BYTES: Final = 32
NO_ADMIN: Final = (
    "no token could create or revoke tokens then: one with the scope `admin`, without limits, must"
    " be the first and the last (`muster token new root --may admin`), unless the service has"
    " one of its own (MUSTER_API_TOKEN)"
)


class SecretRow(Timed, frozen=True, kw_only=True):
    """One of its secrets. `digest`: the first characters of that which is recorded."""

    digest: str
    created_at: int
    created_time: datetime | None = None
    expires_at: int | None = None
    """Null: never."""
    expires_time: datetime | None = None


class TokenRow(Timed, frozen=True, kw_only=True):
    """A token. `pools`, `projects` null: all of them. `actor`: who made it."""

    name: str
    scopes: Sequence[str]
    pools: Sequence[str] | None
    projects: Sequence[str] | None
    secrets: Sequence[SecretRow]
    """The newest first."""
    actor: str
    created_at: int
    created_time: datetime | None = None
    changed_at: int
    changed_time: datetime | None = None


class NewToken(TokenRow, frozen=True, kw_only=True):
    """A token with its new secret, which is never shown again."""

    token: str


class TokenList(Struct, frozen=True):
    """Tokens in the order of their names."""

    tokens: Sequence[TokenRow]


async def list_tokens(call: Call) -> Answer:
    """The tokens, without their secrets."""
    with suppress(LogError):  # else those that are known
        await call.backend.refresh_known_pools()
    found = sorted(call.backend.tokens().values(), key=lambda token: token.name)
    return Answer(TokenList([TokenRow(**_fields(token, call)) for token in found]))


async def create_token(call: Call, body: TokenRequest) -> Answer:
    """Create a token."""
    _require_free(body.name)
    durability = await durability_request(call)
    secret, now_ms = _new_secret(), call.backend.log.now_ms(CATALOGUE)
    created = events.TokenCreated(
        digest=tokens.digest_of(secret),
        scopes=tuple(dict.fromkeys(scope.value for scope in body.scopes)),
        pools=None if body.pools is None else tuple(dict.fromkeys(body.pools)),
        projects=None if body.projects is None else tuple(dict.fromkeys(body.projects)),
        expires_ms=_expiry(now_ms, body.expires_in_seconds),
    )

    new = Token(
        name=body.name,
        scopes=created.scopes,
        pools=created.pools,
        projects=created.projects,
        secrets=(tokens.Secret(created.digest, now_ms, created.expires_ms),),
    )

    def decide(known: Mapping[str, Token]) -> Decision:
        if found := known.get(subject_of(body.name)):
            same = found.secrets[0].digest == created.digest
            return Outcome.ALREADY if same else Outcome.CONFLICT, None
        _require_admin(call, [*known.values(), new])
        return Outcome.DONE, created

    result = await _change(call, body.name, decide)
    durability.start(result.proof)
    return await durability.response(_new_token(call, result, body.name, secret), 201)


async def rotate_token(call: Call, token_name: TokenName, body: RotateRequest) -> Answer:
    """Give a token a new secret; the one before stays valid for a while."""
    durability = await durability_request(call)
    secret, now_ms = _new_secret(), call.backend.log.now_ms(CATALOGUE)
    overlap_ms, digest = int(body.overlap_seconds * 1000), tokens.digest_of(secret)
    seconds = body.expires_in_seconds
    valid_ms = None if seconds is None else int(seconds * 1000)

    def decide(known: Mapping[str, Token]) -> Decision:
        found = known.get(subject_of(token_name))
        if found is None:
            return Outcome.ABSENT, None
        if found.secrets[0].digest == digest:
            return Outcome.ALREADY, None
        rotated = tokens.rotation(found, digest, now_ms, overlap_ms=overlap_ms, valid_ms=valid_ms)
        return Outcome.DONE, rotated

    result = await _change(call, token_name, decide)
    durability.start(result.proof)
    return await durability.response(_new_token(call, result, token_name, secret))


async def revoke_token(call: Call, token_name: TokenName) -> Answer:
    """Revoke a token: none of its secrets is valid any more."""
    revoked: list[Token] = []

    def decide(known: Mapping[str, Token]) -> Decision:
        found = known.get(subject_of(token_name))
        if found is None:
            return Outcome.ALREADY if revoked else Outcome.ABSENT, None
        if rest := tokens.without(known, token_name):
            _require_admin(call, rest)
        revoked[:] = [found]
        return Outcome.DONE, events.TokenRevoked()

    durability = await durability_request(call)
    result = await _change(call, token_name, decide)
    durability.start(result.proof)
    return await durability.response(TokenRow(**_fields(revoked[0], call)))


async def _change(
    call: Call, name: str, decide: Callable[[Mapping[str, Token]], Decision]
) -> ChangeResult:
    """Raises `Problem` if the token exists, or does not."""
    backend = call.backend
    result = await backend.with_catalogue(
        lambda catalogue: catalogue.change_token(name, decide, call.origin)
    )
    if result.outcome is Outcome.CONFLICT:
        detail = f"there is a token {name!r} already; revoke it, or give it a new secret (rotate)"
        raise Problem(Kind.TOKEN_EXISTS, detail, field="name")
    if result.outcome is Outcome.ABSENT:
        known = [token.name for token in result.catalogue.tokens.values()]
        detail = unknown_name("token", name, known)
        raise Problem(Kind.TOKEN_NOT_FOUND, detail, field="token_name")
    remember(backend, "change_token", name, result)
    backend.report_position(call.read_state, CATALOGUE)
    return result


def _new_token(call: Call, result: ChangeResult, name: str, secret: str) -> NewToken:
    token = result.catalogue.tokens.get(subject_of(name))
    if token is None:  # it was revoked meanwhile
        raise Problem(Kind.TOKEN_NOT_FOUND, unknown_name("token", name), field="token_name")
    return NewToken(token=secret, **_fields(token, call))


def _fields(token: Token, call: Call) -> dict[str, Any]:
    """Of a row. Secrets that have expired are left out."""
    now_ms = call.backend.log.now_ms(CATALOGUE)
    return {
        **{name: getattr(token, name) for name in ("name", "scopes", "pools", "projects", "actor")},
        "secrets": [
            SecretRow(digest=one.digest[:12], created_at=one.created_ms, expires_at=one.expires_ms)
            for one in token.secrets
            if one.valid(now_ms)
        ],
        "created_at": token.created_ms,
        "changed_at": token.changed_ms,
    }


def _require_free(name: str) -> None:
    if name in tokens.ACTORS:
        detail = f"{name!r} is what events of other actors are recorded with; choose another name"
        raise Problem(Kind.INVALID_REQUEST, detail, field="name")


def _require_admin(call: Call, left: Sequence[Token]) -> None:
    backend = call.backend
    now_ms = backend.log.now_ms(CATALOGUE)
    if not backend.options.api_token and not tokens.administered(left, now_ms):
        raise Problem(Kind.NO_ADMIN_LEFT, NO_ADMIN)


def _new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def _expiry(now_ms: int, seconds: float | None) -> int:
    return 0 if seconds is None else now_ms + max(int(seconds * 1000), 1)
