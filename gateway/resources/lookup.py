"""`GET /api/v1/lookup`: what a name, or a part of an id, stands for.

An agent or worker is found by its id, or by any beginning or end of it of six characters or more;
a pool, project or role by its name. Ids are found through indexes. So a client can tell a typo
from something that is empty.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from eventstore.errors import LogError
from eventstore.names import either, unknown_name
from gateway.backend.call import Call
from gateway.wire.answer import Answer
from gateway.wire.requests import LookupQuery, NameKind
from projector.queries.views import Views

MATCHES_MAX: Final = 10
"""So many agents, and so many workers, are answered at most."""


class Match(Struct, frozen=True):
    """Something that bears the name. `status` and `pool_name` are of agents and workers."""

    kind: NameKind
    name: str
    pool_name: str = ""
    status: str = ""


class Lookup(Struct, frozen=True):
    """All that bear the name, at most ten agents and ten workers (then there is `more`).

    `message`: where none does, what to say: it names a similar name, if there is one.
    """

    matches: Sequence[Match]
    more: bool = False
    message: str = ""


async def look_up(call: Call, query: LookupQuery) -> Answer:
    """What a name or a part of an id stands for."""
    backend, kinds = call.backend, query.kind or list(NameKind)
    async with backend.read_views() as views:
        found = await _matches(call, views, query.name, kinds)
        if not found:  # it may be newer than the views
            with suppress(LogError):  # the views answer while Redis is away
                await backend.refresh_known_pools()
            await backend.catch_up(views, call.read_state, call.logs_of(None))
            found = await _matches(call, views, query.name, kinds)
        message = "" if found else await _message(call, views, query.name, kinds)
    return Answer(Lookup(found[:MATCHES_MAX], len(found) > MATCHES_MAX, message))


async def _matches(call: Call, views: Views, name: str, kinds: Collection[NameKind]) -> list[Match]:
    """What its caller may know of."""
    found: list[Match] = []
    backend, grant, own = call.backend, call.grant, call.own_agents
    of_project = NameKind.PROJECT in kinds and grant.has_project(name)
    if of_project and await views.has_project(name, pools=call.own_pools):
        found.append(Match(NameKind.PROJECT, name))
    for kind in (NameKind.AGENT, NameKind.WORKER):
        hidden = kind is NameKind.WORKER and grant.projects is not None
        if kind in kinds and not hidden:
            limit = MATCHES_MAX + 1
            rows = await views.find_ids(kind.value, name.lower(), limit=limit, **own)
            found += [Match(kind, *row) for row in rows]
    # Last, so that nothing is awaited before the message names what is known: it may grow.
    pools = grant.own_pools(backend.known_pools())
    named = ((NameKind.POOL, pools), (NameKind.ROLE, _roles(call)))
    return [
        *(Match(kind, name) for kind, known in named if kind in kinds and name in known),
        *found,
    ]


async def _message(call: Call, views: Views, name: str, kinds: Collection[NameKind]) -> str:
    """What is wrong with a name that nothing bears."""
    known: set[str] = set()
    if NameKind.POOL in kinds:
        known |= {*call.grant.own_pools(call.backend.pools())}
    if NameKind.ROLE in kinds:
        known |= _roles(call)
    if NameKind.PROJECT in kinds and not call.grant.limited:
        known |= set(await views.projects())
    return unknown_name(either([kind.value for kind in kinds]), name, known)


def _roles(call: Call) -> set[str]:
    """The roles that are declared here, and those of pools that others declared."""
    pools = call.backend.pools()
    own = call.grant.own_pools(pools)
    return {*call.backend.options.roles, *(pools[name].role_type for name in own)}
