"""The one decision about what a caller may do, and that no route does without it."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.keys import CATALOGUE
from eventstore.language.events import EVENT_TYPES
from eventstore.language.tokens import Scope, Secret, Token, digest_of, subject_of
from eventstore.steps.step import Origin
from gateway.access.credentials import Credentials
from gateway.access.grants import (
    FULL,
    About,
    Grant,
    Need,
    Verdict,
    decide,
    need_of_event,
    pool_of_event,
)
from gateway.backend.call import Call
from gateway.options import GatewayOptions, Limits
from gateway.server import routes
from gateway.server.authorization import require_declared
from gateway.server.openapi import Operation
from gateway.wire.answer import Answer

NAMES = st.sampled_from(["a", "b", "c"])
LIMITS = st.none() | st.frozensets(NAMES, min_size=1, max_size=2)
SCOPES = st.frozensets(st.sampled_from(list(Scope)), max_size=3)
NEEDS = st.builds(Need, st.sampled_from(list(Scope)), st.sampled_from(list(About)))
ALLOWED, OUT, LIMITED, FOREIGN = Verdict


@given(scopes=SCOPES, pools=LIMITS, projects=LIMITS, need=NEEDS, pool=NAMES, project=NAMES)
def test_scope_pool_and_project_must_all_allow_it(
    scopes: frozenset[Scope],
    pools: frozenset[str] | None,
    projects: frozenset[str] | None,
    need: Need,
    pool: str,
    project: str,
) -> None:
    grant = Grant(scopes, pools, projects, name="ci")
    allowed = decide(grant, need, pool=pool, project=project) is ALLOWED
    assert allowed == (
        bool(scopes & {need.scope, Scope.ADMIN})
        and (pools is None or (pool in pools and need.about is not About.SERVICE))
        and (
            projects is None
            or (project in projects and need.about in (About.ANY, About.AGENT, About.AGENTS))
        )
    )


@given(need=NEEDS, pool=NAMES, project=NAMES)
def test_who_is_not_limited_may_do_all(need: Need, pool: str, project: str) -> None:
    assert decide(FULL, need, pool=pool, project=project) is ALLOWED
    admin = Grant(frozenset({Scope.ADMIN}), name="root")
    assert decide(admin, need, pool=pool, project=project) is ALLOWED


@given(
    scopes=SCOPES,
    pools=LIMITS,
    more=st.frozensets(NAMES),
    need=NEEDS,
    pool=st.none() | NAMES,
)
def test_more_pools_never_allow_less(
    scopes: frozenset[Scope],
    pools: frozenset[str] | None,
    more: frozenset[str],
    need: Need,
    pool: str | None,
) -> None:
    fewer = decide(Grant(scopes, pools), need, pool=pool)
    wider = decide(Grant(scopes, None if pools is None else pools | more), need, pool=pool)
    assert fewer is not ALLOWED or wider is ALLOWED


@pytest.mark.parametrize(
    ("kind", "log", "of_pools", "of_projects", "of_reader", "of_admin"),
    [
        ("agent.started", "a", True, True, True, True),
        ("agent.started", "z", False, True, True, True),
        ("worker.started", "a", True, False, True, True),
        ("pool.scaling_decided", "a", True, False, True, True),
        ("pool.changed", CATALOGUE, True, False, True, True),
        ("host.joined", CATALOGUE, False, False, True, True),
        ("log.recovered", CATALOGUE, False, False, True, True),
        ("token.created", CATALOGUE, False, False, False, True),
    ],
)
def test_who_may_read_an_event(
    kind: str, log: str, of_pools: bool, of_projects: bool, of_reader: bool, of_admin: bool
) -> None:
    readers = frozenset({Scope.READ})
    need, pool = need_of_event(log, kind), pool_of_event(log, kind, subject="a")
    for grant, expected in (
        (Grant(readers, pools=frozenset({"a"})), of_pools),
        (Grant(readers, projects=frozenset({"p"})), of_projects),
        (Grant(readers), of_reader),
        (FULL, of_admin),
    ):
        assert (decide(grant, need, pool=pool, project="p") is ALLOWED) is expected


def test_every_event_about_tokens_is_for_who_administers_them() -> None:
    found = {kind for kind in EVENT_TYPES if need_of_event(CATALOGUE, kind).scope is Scope.ADMIN}
    assert found == {"token.created", "token.rotated", "token.revoked"}


# ---- routes ----------------------------------------------------------------------------------


def test_a_route_without_a_need_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="needs"):
        Operation("x", "GET", "/x", routes.document, str, {200: "x"})  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("need", "reads", "public", "why"),
    [
        (None, (), False, "declares no `needs`"),
        (Need(None), (), False, "needs a scope"),
        (Need(Scope.READ), (), True, "public paths"),
        (Need(Scope.READ, About.POOL), ("agent_id",), False, "does not read pool_name"),
        (Need(Scope.READ, About.WORKER), ("pool_name",), False, "does not read worker_id"),
        (Need(Scope.SPAWN, About.AGENT), ("pool_name",), False, "agent_id or pool_name with"),
    ],
)
def test_a_gateway_does_not_start_with_a_route_that_does_not_say_what_it_needs(
    need: Any, reads: Iterable[str], public: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TypeError, match=f"GET /x .*{why}"):
        require_declared("GET /x", need, dict.fromkeys(reads, str), public=public)
    undeclared = Operation(
        "x", "GET", "/x", routes.document, str, {200: "x"}, needs=Need(Scope.READ, About.POOL)
    )
    monkeypatch.setattr(routes, "OPERATIONS", (*routes.OPERATIONS, undeclared))
    with pytest.raises(TypeError, match="GET /x"):
        routes.application(Limits())


# ---- credentials -----------------------------------------------------------------------------


def tokens(*secrets: Secret, **fields: Any) -> dict[str, Token]:
    token = Token(name="ci", scopes=("read",), secrets=secrets, **fields)
    return {subject_of("ci"): token}


class Clock:
    now_ms = 1000

    def __call__(self) -> int:
        return self.now_ms


def test_a_secret_is_valid_until_it_expires_or_is_revoked() -> None:
    clock, known = (
        Clock(),
        {**tokens(Secret(digest_of("new"), 0), Secret(digest_of("old"), 0, 2000))},
    )
    current = [known]
    credentials = Credentials(None, lambda: current[0], clock)
    reader = Grant(frozenset({"read"}), name="ci")
    assert credentials.grant_of("Bearer new") == reader
    assert credentials.grant_of("Bearer old") == reader
    clock.now_ms = 2000
    assert credentials.grant_of("Bearer old") is None
    current[0] = tokens(Secret(digest_of("newest"), 0))
    assert credentials.grant_of("Bearer new") is None
    assert credentials.grant_of("Bearer newest") == reader


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic new", "new", "Bearer  ne w"])
def test_what_is_no_bearer_token_allows_nothing(header: str) -> None:
    assert (
        Credentials(None, lambda: tokens(Secret(digest_of("new"), 0)), Clock()).grant_of(header)
        is None
    )


def test_without_any_token_everybody_may_do_all_and_with_an_expired_one_nobody() -> None:
    assert Credentials(None, dict, Clock()).grant_of("") is FULL
    expired = tokens(Secret(digest_of("old"), 0, 1))
    assert Credentials(None, lambda: expired, Clock()).grant_of("") is None
    assert Credentials(None, lambda: expired, Clock()).grant_of("Bearer old") is None


def test_the_services_own_token_is_valid_whatever_tokens_there_are() -> None:
    credentials = Credentials("own", lambda: tokens(Secret(digest_of("new"), 0)), Clock())
    assert credentials.grant_of("Bearer own") is FULL
    assert credentials.grant_of("Bearer new") != FULL
    assert credentials.grant_of("Bearer other") is None


def test_the_position_in_an_answer_names_no_foreign_pool() -> None:
    backend = SimpleNamespace(options=GatewayOptions(redis_url="", database_url="", roles=()))
    for pools, expected in ((None, ":7,a:1,b:2"), (frozenset({"a"}), ":7,a:1")):
        call = Call(cast("Any", None), cast("Any", backend), Origin())
        call.grant = Grant(frozenset({"read"}), pools)
        call.read_state.position = {"": 7, "a": 1, "b": 2}
        answer = Answer({})
        call.set_headers(answer)
        assert answer.headers["Muster-Position"] == expected
