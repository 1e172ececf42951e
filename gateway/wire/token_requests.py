"""What requests about tokens may say: see `requests`, of which this is a part."""

from typing import Annotated, ClassVar, Final

from msgspec import Meta

from eventstore.language.tokens import Scope
from gateway.wire.requests import PoolName, ProjectId, Request, text

DAY_SECONDS: Final = 86_400.0
EXPIRY_MAX_SECONDS: Final = 315_360_000
"""Ten years."""
LIMITS_MAX: Final = 100
"""So many pools, and so many projects, a token may be limited to: each list asks for each."""
TokenName = Annotated[
    str,
    text(
        r"[a-z0-9][a-z0-9._-]{0,62}",
        "1 to 63 lower-case letters, digits, dots, _ or -, the first a letter or digit",
    ),
]
Expiry = Annotated[float, Meta(gt=0, le=EXPIRY_MAX_SECONDS)]


class TokenRequest(Request, frozen=True):
    """Create a token. `pools`, `projects` left out or null: all of them; both limits apply.

    `expires_in_seconds` null: it never expires.
    """

    name: TokenName
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=len(Scope))]
    pools: Annotated[list[PoolName], Meta(min_length=1, max_length=LIMITS_MAX)] | None = None
    projects: Annotated[list[ProjectId], Meta(min_length=1, max_length=LIMITS_MAX)] | None = None
    expires_in_seconds: Expiry | None = None


class RotateRequest(Request, frozen=True):
    """For how long the secret before stays valid (a day unless said), and the new one is.

    `expires_in_seconds` null: the new one is valid for as long as the one before was to be.

    The body may be left out.
    """

    may_be_empty: ClassVar[bool] = True
    overlap_seconds: Annotated[float, Meta(ge=0, le=EXPIRY_MAX_SECONDS)] = DAY_SECONDS
    expires_in_seconds: Expiry | None = None
