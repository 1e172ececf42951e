"""The session of a browser: started with a token, ended on request, and who has it.

These calls need no token, since they are how one comes to a session; they answer with nothing but
what the caller may do.
"""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from eventstore.language.tokens import Scope
from gateway.access.grants import Grant
from gateway.backend.call import Call
from gateway.wire import session_cookie
from gateway.wire.answer import Answer
from gateway.wire.problems import Kind, Problem
from gateway.wire.requests import Request
from gateway.wire.session_cookie import require_same_origin, sent_credentials

ALL: Final = tuple(scope.value for scope in Scope)


class SessionRequest(Request, frozen=True):
    """The token to start a session with."""

    token: Annotated[str, Meta(min_length=1, max_length=1000)]


class Session(Struct, frozen=True):
    """Who a caller is. `pools`, `projects` null: all of them."""

    token_required: bool
    """Whether calls need a token; if not, everyone may do everything."""
    signed_in: bool
    name: str = ""
    """Of the token; that of the service itself has none."""
    scopes: Sequence[str] = ()
    """What the caller may do now; `admin` includes all others."""
    pools: Sequence[str] | None = None
    projects: Sequence[str] | None = None


async def get_session(call: Call) -> Answer:
    """Who one is, and what one may do."""
    grant = call.backend.credentials.grant_of(sent_credentials(call.request))
    return Answer(_session(call, grant))


async def start_session(call: Call, body: SessionRequest) -> Answer:
    """Start a session with a token, which is from then on in a cookie."""
    require_same_origin(call.request)
    credentials = call.backend.credentials
    grant = credentials.grant_of(f"Bearer {body.token}")
    if grant is None:
        detail = "the token is not valid: it is wrong, has expired, or was revoked"
        raise Problem(Kind.UNAUTHORIZED, detail, field="token")
    headers = {}
    if credentials.required:
        headers["Set-Cookie"] = session_cookie.start(call.request, body.token)
    return Answer(_session(call, grant), headers=headers)


async def end_session(call: Call) -> Answer:
    """End the session."""
    require_same_origin(call.request)
    headers = {"Set-Cookie": session_cookie.end(call.request)}
    return Answer(Session(call.backend.credentials.required, signed_in=False), headers=headers)


def _session(call: Call, grant: Grant | None) -> Session:
    required = call.backend.credentials.required
    if grant is None:
        return Session(required, signed_in=False)
    return Session(
        required,
        signed_in=required,
        name=grant.name,
        scopes=[scope for scope in ALL if scope in grant.scopes],
        pools=None if grant.pools is None else sorted(grant.pools),
        projects=None if grant.projects is None else sorted(grant.projects),
    )
