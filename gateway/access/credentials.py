"""Who a caller is: the bearer token of a request, and what it allows now.

Tokens are followed live, so what is revoked, or has expired, allows nothing from then on. Where no
token is configured at all, everybody may do everything: such a gateway only listens on this
machine.
"""

import hmac
from collections.abc import Callable, Mapping
from typing import Final

from eventstore.language.tokens import Secret, Token, digest_of
from gateway.access.grants import FULL, Grant, grant_of

KNOWN_MAX: Final = 1_000
"""So many headers are remembered."""
LENGTH_MAX: Final = 1_000
"""Of a header that is."""


class Credentials:
    """The tokens of a gateway. `tokens` returns those of the catalogue, always the same mapping
    while they are; `now_ms` its time."""

    def __init__(
        self,
        api_token: str | None,
        tokens: Callable[[], Mapping[str, Token]],
        now_ms: Callable[[], int],
    ) -> None:
        self._api_token = api_token
        self._tokens = tokens
        self._now_ms = now_ms
        self._indexed: Mapping[str, Token] | None = None
        self._by_digest: dict[str, tuple[Grant, Secret]] = {}
        self._known: dict[str, str] = {}
        """Digests of the valid secrets in headers, so that equal ones need not be hashed again."""

    @property
    def required(self) -> bool:
        """Whether any token is configured, also one that has expired."""
        return bool(self._api_token or self._tokens())

    def grant_of(self, header: str) -> Grant | None:
        """What the holder of a request's `Authorization` may do now; None: it is not known."""
        if not self.required:
            return FULL
        if self._tokens() is not self._indexed:
            self._index()
        digest = self._known.get(header)
        if digest is None:
            scheme, _, secret = header.partition(" ")
            secret = secret.strip()
            if scheme.lower() != "bearer" or not secret:
                return None
            if self._api_token is not None and _equal(secret, self._api_token):
                return FULL
            digest = digest_of(secret)
        found = self._by_digest.get(digest)
        if found is None or not found[1].valid(self._now_ms()):
            return None
        if len(header) <= LENGTH_MAX:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[header] = digest
        return found[0]

    def _index(self) -> None:
        tokens = self._tokens()
        self._by_digest = {
            secret.digest: (grant_of(token), secret)
            for token in tokens.values()
            for secret in token.secrets
        }
        self._known.clear()
        self._indexed = tokens


def _equal(one: str, other: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(one.encode(errors="surrogateescape"), other.encode())
