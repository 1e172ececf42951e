"""What a caller may do, and the one decision about it: pure.

Each call of the API declares what it needs: a scope, and what it is about. A caller has a grant:
scopes, and the pools and projects that it is limited to, if it is. Both limits apply together.

What a pool holds may belong to several projects. So who is limited to projects sees of a pool only
the agents of these projects: not its figures, its workers or its other events.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from eventstore.keys import CATALOGUE
from eventstore.language.tokens import Scope, Token


class About(StrEnum):
    """What a call is about."""

    ANY = "any"
    """Nothing that belongs to a pool or project."""
    SERVICE = "service"
    """All of the service: for callers without limits."""
    POOL = "pool"
    """One pool."""
    POOLS = "pools"
    """Pools, or what is in them: the handler selects those of the caller."""
    WORKER = "worker"
    """One worker."""
    AGENT = "agent"
    """One agent."""
    AGENTS = "agents"
    """Agents: the handler selects those of the caller."""


class Need(Struct, frozen=True):
    """What a call needs. Without a scope it needs no token."""

    scope: Scope | None
    about: About = About.ANY


class Grant(Struct, frozen=True):
    """What a caller may do. `pools`, `projects` None: all of them."""

    scopes: frozenset[str]
    pools: frozenset[str] | None = None
    projects: frozenset[str] | None = None
    name: str = ""
    """Of its token; empty for a caller without a named one."""

    @property
    def limited(self) -> bool:
        """Whether it is for some pools or projects only."""
        return self.pools is not None or self.projects is not None

    @property
    def logs(self) -> Sequence[str] | None:
        """The logs that it may read of; None: all."""
        return None if self.pools is None else (CATALOGUE, *sorted(self.pools))

    def has_pool(self, pool: str) -> bool:
        """Whether a pool of this name would be one of its own."""
        return self.pools is None or pool in self.pools

    def has_project(self, project: str) -> bool:
        """As `has_pool`."""
        return self.projects is None or project in self.projects

    def has_log(self, log: str) -> bool:
        """As `has_pool`; the catalogue is of everybody."""
        return log == CATALOGUE or self.has_pool(log)

    def own_pools(self, pools: Iterable[str]) -> list[str]:
        """Those of some pools that it may know of."""
        return [pool for pool in pools if self.has_pool(pool)]


FULL: Final = Grant(frozenset(Scope))
"""Of the service's own token; and of everybody where there is no token at all."""


class Verdict(StrEnum):
    """Whether a call is allowed, or why not."""

    ALLOWED = "allowed"
    OUT_OF_SCOPE = "out of scope"
    LIMITED = "limited"
    """It is only for callers without such limits."""
    FOREIGN = "foreign"
    """To this caller it does not exist."""


def decide(
    grant: Grant, need: Need, *, pool: str | None = None, project: str | None = None
) -> Verdict:
    """Whether a caller may do what a call does, with a pool or project as far as one is known."""
    if need.scope is None:
        return Verdict.ALLOWED
    if not grant.scopes & {need.scope, Scope.ADMIN}:
        return Verdict.OUT_OF_SCOPE
    if need.about is About.SERVICE and grant.limited:
        return Verdict.LIMITED
    if need.about is About.POOLS and grant.projects is not None:
        return Verdict.LIMITED
    if pool is not None and not grant.has_pool(pool):
        return Verdict.FOREIGN
    if need.about in (About.POOL, About.WORKER) and grant.projects is not None:
        return Verdict.FOREIGN
    if project is not None and not grant.has_project(project):
        return Verdict.FOREIGN
    return Verdict.ALLOWED


def need_of_event(log: str, kind: str) -> Need:
    """What reading an event needs, by the log that it is in and its type."""
    if kind.startswith("token."):
        return Need(Scope.ADMIN, About.SERVICE)
    if kind.startswith("agent."):
        return Need(Scope.READ, About.AGENT)
    of_pool = log != CATALOGUE or kind.startswith("pool.")
    return Need(Scope.READ, About.POOL if of_pool else About.SERVICE)


def pool_of_event(log: str, kind: str, subject: str) -> str | None:
    """The pool that an event is of, if it is of one: those of the catalogue are their subjects."""
    if log != CATALOGUE:
        return log
    return subject if kind.startswith("pool.") else None


def grant_of(token: Token) -> Grant:
    """What a token allows."""
    return Grant(
        scopes=frozenset(token.scopes),
        pools=None if token.pools is None else frozenset(token.pools),
        projects=None if token.projects is None else frozenset(token.projects),
        name=token.name,
    )
