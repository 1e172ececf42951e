"""Whether a caller may do what it asks: finds what a call is about, and lets `decide` decide.

What is foreign to a caller is answered exactly as what does not exist. Lists are another matter:
their handlers select what is the caller's, and this only checks the names that they are given.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from msgspec import Struct

from eventstore.names import unknown_name
from gateway.access.grants import FULL, About, Need, Verdict, decide
from gateway.backend import agent_rows
from gateway.backend.call import Call
from gateway.wire.problems import Kind, Problem

POOL_FIELDS: Final = ("pool_name", "pool")
"""Parts of paths, queries and bodies that name a pool."""
PROJECT_FIELDS: Final = ("project_id",)
PARKED_FIELD: Final = "parked_id"
"""It begins with the name of a pool."""
NAMED: Final[Mapping[About, Sequence[Sequence[str]]]] = {
    About.POOL: (("pool_name",), (PARKED_FIELD,)),
    About.WORKER: (("worker_id",),),
    About.AGENT: (("agent_id",), ("pool_name", "project_id")),
}
"""What a call must read, all of one of these, if it is about one thing."""


def require_scope(call: Call, need: Need) -> None:
    """Raises `Problem` if the caller may not do this at all."""
    grant = call.grant
    if grant is FULL:
        return
    match decide(grant, need):
        case Verdict.OUT_OF_SCOPE:
            scopes = ", ".join(sorted(grant.scopes)) or "nothing"
            detail = f"token `{grant.name}` may {scopes}; this needs the scope `{need.scope}`"
            raise Problem(Kind.FORBIDDEN, detail)
        case Verdict.LIMITED:
            limits = [] if grant.projects is None else ["projects"]
            limits += [] if grant.pools is None else ["pools"]
            what = "all pools and projects" if need.about is About.SERVICE else "whole pools"
            detail = f"token `{grant.name}` is for some {' and '.join(limits)} only; this is about"
            raise Problem(Kind.FORBIDDEN, f"{detail} {what}")
        case Verdict.ALLOWED | Verdict.FOREIGN:
            return


async def require_own(call: Call, need: Need, inputs: Mapping[str, Any]) -> None:
    """Raises `Problem` if what a call names is foreign to the caller."""
    grant = call.grant
    if need.scope is None or not grant.limited:
        return
    fields = dict(_fields(inputs))
    for pool in _named_pools(fields):
        if decide(grant, need, pool=pool) is Verdict.FOREIGN:
            raise call.backend.pool_not_found(pool)
    for project in _values(fields, PROJECT_FIELDS):
        if decide(grant, need, project=project) is Verdict.FOREIGN:
            detail = unknown_name("project", project)
            raise Problem(Kind.PROJECT_NOT_FOUND, detail, field="project_id")
    if need.about is About.WORKER:
        await _require_own_worker(call, need, fields["worker_id"])
    elif need.about is About.AGENT and "agent_id" in fields:
        await _require_own_agent(call, need, fields["agent_id"], fields.get("pool_name"))


async def _require_own_agent(call: Call, need: Need, agent_id: str, pool: str | None) -> None:
    owner = await agent_rows.owner_of(call.backend, agent_id, pool)
    verdict = Verdict.FOREIGN
    if owner is not None:
        verdict = decide(call.grant, need, pool=owner[0], project=owner[1])
    if verdict is Verdict.FOREIGN:
        raise agent_rows.not_found(agent_id, pool)


async def _require_own_worker(call: Call, need: Need, worker_id: str) -> None:
    backend = call.backend
    async with backend.read_views() as views:
        row = await views.worker(worker_id)
        if row is None:  # it may be newer than the views
            await backend.catch_up(views, call.read_state, call.grant.logs)
            row = await views.worker(worker_id)
    if row is None or decide(call.grant, need, pool=row.pool_name) is Verdict.FOREIGN:
        detail = unknown_name("worker", worker_id)
        raise Problem(Kind.WORKER_NOT_FOUND, detail, field="worker_id")


def _fields(inputs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All that a call reads by name, of its path, query and body."""
    for name, value in inputs.items():
        if isinstance(value, Struct):
            yield from ((field, getattr(value, field)) for field in value.__struct_fields__)
        else:
            yield name, value


def _values(fields: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        value = fields.get(name)
        if value is not None:
            found += value if isinstance(value, list) else [value]
    return found


def _named_pools(fields: Mapping[str, Any]) -> list[str]:
    parked = [one.partition(":")[0] for one in _values(fields, [PARKED_FIELD])]
    return [*_values(fields, POOL_FIELDS), *parked]


def require_declared(what: str, need: Need, shapes: Mapping[str, Any], *, public: bool) -> None:
    """Raises `TypeError` unless a route says what it needs, and reads what that is about.

    `what`: the route, for the message. `shapes`: of all that it reads, by name. `public`: whether
    it is answered without a token.
    """
    if not isinstance(need, Need):
        _refuse(what, "declares no `needs`: what scope, and what it is about")
    if (need.scope is None) is not public:
        _refuse(what, "needs a scope, or is one of the public paths of `admission`, and not both")
    names: set[str] = set()
    for name, shape in shapes.items():
        names |= {*getattr(shape, "__struct_fields__", (name,))}
    if need.about in NAMED and not any(names.issuperset(some) for some in NAMED[need.about]):
        expected = " or ".join(" with ".join(some) for some in NAMED[need.about])
        _refuse(what, f"is about one {need.about.value}, and does not read {expected}")


def _refuse(what: str, why: str) -> NoReturn:
    raise TypeError(f"{what} {why}")
