"""Tokens: made, used, given another secret, revoked; by every gateway at once, and recorded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.server.listener import Gateway
from projector.verify.verification import verify
from tests.integration.gateway.stage import (
    AGENTS,
    TOKEN,
    GatewayStage,
    another_gateway,
    asked,
    gateway_stage,
    logged,
    options,
)
from tests.integration.gateway.token_callers import ADMIN, TOKENS, bearer, new_token
from tests.integration.projector.stage import POOL
from tests.waiting import until


@pytest.fixture
async def stage(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayStage]:
    database = f"sqlite:///{tmp_path / 'views.db'}"
    async with gateway_stage(redis_url, database, api_token=TOKEN) as opened:
        yield opened


async def test_a_secret_is_answered_once_and_recorded_nowhere(stage):
    async with logged() as lines:
        headers = await new_token(stage, "ci", "read", pools=[POOL], expires_in_seconds=60)
        secret = headers["Authorization"].split()[1]
        assert (await stage.get(AGENTS, headers=headers)).status == 200
        listed = await stage.get(TOKENS, headers=ADMIN)
    [token] = listed.json["tokens"]
    assert (token["name"], token["scopes"], token["pools"], token["projects"]) == (
        "ci", ["read"], [POOL], None,
    )  # fmt: skip
    [one] = token["secrets"]
    assert one["expires_at"] - one["created_at"] == pytest.approx(60_000, abs=5000)
    assert secret not in listed.body.decode()
    await stage.stage.settle("")
    everything = [str(await stage.stage.sql("SELECT * FROM {}events"))]
    everything += [str(await stage.stage.sql("SELECT * FROM {}tokens")), str(lines)]
    assert not any(secret in text for text in everything)


async def test_the_name_of_a_token_is_the_actor_of_what_it_does(stage):
    headers = await new_token(stage, "ci", "spawn", "operate", "admin")
    answer = await stage.ask("POST", f"{AGENTS}/spawn", json=asked(), headers={
        **headers, "Prefer": "respond-async",
    })  # fmt: skip
    assert answer.status == 202
    body = {"reason": "night"}
    paused = await stage.ask("POST", f"{AGENTS}/pools/{POOL}/pause", json=body, headers=headers)
    assert paused.status == 200
    await stage.stage.settle(POOL)
    query = "SELECT type, actor FROM {}events WHERE type IN ('agent.requested', 'pool.changed')"
    rows = {row["type"]: row["actor"] for row in await stage.stage.sql(query)}
    assert rows == {"agent.requested": "ci", "pool.changed": "ci"}
    explained = await stage.get(f"{AGENTS}/pools/{POOL}/explain", headers=headers)
    assert "Scaling paused by ci (night)" in explained.body.decode()


async def test_two_secrets_are_valid_while_one_replaces_the_other(stage):
    first = await new_token(stage, "ci", "read")

    async def rotated(**body: Any) -> dict[str, str]:
        answer = await stage.ask("POST", f"{TOKENS}/ci/rotate", json=body, headers=ADMIN)
        assert answer.status == 200, answer.body
        return bearer(answer.json["token"])

    async def valid(*secrets: dict[str, str]) -> list[bool]:
        return [(await stage.get(AGENTS, headers=one)).status == 200 for one in secrets]

    second = await rotated()
    assert await valid(first, second) == [True, True]
    third = await rotated(overlap_seconds=0.2)
    assert await valid(first, third) == [False, True]
    await until(lambda: _refused(stage, second))
    assert await valid(third) == [True]


async def _refused(stage: GatewayStage, headers: dict[str, str]) -> bool:
    return (await stage.get(AGENTS, headers=headers)).status == 401


async def test_every_gateway_knows_of_a_token_at_once_and_of_its_end(stage):
    async with another_gateway(stage) as other:
        headers = await new_token(stage, "ci", "read")
        await until(lambda: _refused(other, {}))  # it had no token at all before
        assert (await other.get(AGENTS, headers=headers)).status == 200
        async with other.session.get("/api/v1/events", headers=headers) as response:
            while b"id:" not in await response.content.readline():
                pass
            revoked = await stage.ask("DELETE", f"{TOKENS}/ci", headers=ADMIN)
            assert (revoked.status, revoked.json["name"]) == (200, "ci")
            rest = await asyncio.wait_for(response.content.read(), 5)
            assert b"the token is not valid any more" in rest
        assert (await stage.get(AGENTS, headers=headers)).status == 401


async def test_a_token_that_expires_ends_the_stream_that_it_opened(stage):
    headers = await new_token(stage, "ci", "read", expires_in_seconds=0.5)
    async with stage.session.get("/api/v1/events", headers=headers) as response:
        rest = await asyncio.wait_for(response.content.read(), 5)
    assert b"the token is not valid any more" in rest
    assert await _refused(stage, headers)


async def test_an_idempotency_key_is_of_one_token(stage):
    one, other = await new_token(stage, "one", "spawn"), await new_token(stage, "other", "spawn")
    ids = set()
    for headers in (one, other, ADMIN, one, other, ADMIN):
        sent = {**headers, "Prefer": "respond-async", "Idempotency-Key": "same"}
        answer = await stage.ask("POST", f"{AGENTS}/spawn", json=asked(), headers=sent)
        assert answer.status == 202
        ids.add(answer.json["agent_id"])
    assert len(ids) == 3


async def test_views_and_a_rebuilt_log_have_the_tokens(stage):
    await new_token(stage, "ci", "read", pools=[POOL])
    await new_token(stage, "gone", "read")
    await stage.ask("DELETE", f"{TOKENS}/gone", headers=ADMIN)
    await stage.ask("POST", f"{TOKENS}/ci/rotate", json={}, headers=ADMIN)
    await stage.stage.settle("")
    rows = await stage.stage.sql("SELECT name, version FROM {}tokens")
    assert [tuple(row.values()) for row in rows] == [("ci", 2)]
    report = await verify(stage.stage.redis_url, "", stage.stage.database_url)
    assert report.differences == []


# ---- who administers them ------------------------------------------------------------------------


async def test_the_first_token_must_be_able_to_administer_the_others(redis_url, tmp_path):
    """Without a token of its own the service is open; then it must not become closed for all."""
    database = f"sqlite:///{tmp_path / 'views.db'}"
    async with gateway_stage(redis_url, database) as stage:
        body: dict[str, Any] = {"name": "ci", "scopes": ["read"]}
        for refused in (body, {**body, "scopes": ["admin"], "pools": [POOL]}):
            answer = await stage.ask("POST", TOKENS, json=refused)
            assert (answer.status, answer.kind) == (409, "no-admin-left")
        created = await stage.ask("POST", TOKENS, json={"name": "root", "scopes": ["admin"]})
        root = bearer(created.json["token"])
        assert (await stage.get(AGENTS)).status == 401
        assert (await stage.ask("POST", TOKENS, json=body, headers=root)).status == 201
        last = await stage.ask("DELETE", f"{TOKENS}/root", headers=root)
        assert (last.status, last.kind) == (409, "no-admin-left")
        assert (await stage.ask("DELETE", f"{TOKENS}/ci", headers=root)).status == 200
        assert (await stage.ask("DELETE", f"{TOKENS}/root", headers=root)).status == 200
        assert (await stage.get(AGENTS)).status == 200


async def test_a_gateway_that_starts_without_redis_asks_for_the_tokens_of_the_views(
    redis_url, tmp_path, monkeypatch
):
    monkeypatch.setattr("gateway.server.listener.TAIL_SECONDS", 0.1)
    database = f"sqlite:///{tmp_path / 'views.db'}"
    async with gateway_stage(redis_url, database) as stage:
        created = await stage.ask("POST", TOKENS, json={"name": "root", "scopes": ["admin"]})
        await stage.stage.settle("")
        async with _gateway_without_redis(stage, database) as away:
            assert (await away.get(AGENTS)).status == 401
            headers = bearer(created.json["token"])
            answer = await away.get(AGENTS, headers=headers)
            assert (answer.status, answer.headers["Muster-Stale"]) == (200, "true")


@asynccontextmanager
async def _gateway_without_redis(stage: GatewayStage, database: str) -> AsyncIterator[GatewayStage]:
    gateway = Gateway(options("redis://127.0.0.1:1", database))
    await gateway.start()
    away = GatewayStage(stage.stage, gateway, stage.pool, stage.projector)
    try:
        yield away
    finally:
        await away.session.close()
        await gateway.stop()


# ---- wrong input -----------------------------------------------------------------------------

WRONG = [
    ({"name": "CI", "scopes": ["read"]}, "name"),
    ({"name": "http", "scopes": ["read"]}, "name"),
    ({"name": "ci", "scopes": []}, "scopes"),
    ({"name": "ci", "scopes": ["write"]}, "scopes"),
    ({"name": "ci"}, "scopes"),
    ({"name": "ci", "scopes": ["read"], "pools": []}, "pools"),
    ({"name": "ci", "scopes": ["read"], "pools": ["A B"]}, "pools"),
    ({"name": "ci", "scopes": ["read"], "projects": [""]}, "projects"),
    ({"name": "ci", "scopes": ["read"], "expires_in_seconds": 0}, "expires_in_seconds"),
    ({"name": "ci", "scopes": ["read"], "secret": "mine"}, "secret"),
]


async def test_a_wrong_token_is_refused_with_the_field_that_is_wrong(stage, subtests):
    for body, field in WRONG:
        with subtests.test(str(body)):
            answer = await stage.ask("POST", TOKENS, json=body, headers=ADMIN)
            assert (answer.status, answer.kind) == (400, "invalid-request"), answer.body
            assert answer.fields[0].startswith(field)
    assert (await stage.get(TOKENS, headers=ADMIN)).json == {"tokens": []}


async def test_a_name_is_used_once_and_an_unknown_one_is_not_found(stage):
    await new_token(stage, "ci", "read")
    body = {"name": "ci", "scopes": ["admin"]}
    again = await stage.ask("POST", TOKENS, json=body, headers=ADMIN)
    assert (again.status, again.kind) == (409, "token-exists")
    for method, path in (("DELETE", "c1"), ("POST", "c1/rotate")):
        answer = await stage.ask(method, f"{TOKENS}/{path}", headers=ADMIN)
        assert (answer.status, answer.kind) == (404, "token-not-found")
        assert answer.json["detail"] == "no token `c1`; there are: ci"


async def test_a_refusal_says_which_scope_or_limit_it_is_about(stage):
    headers = await new_token(stage, "ci", "read", projects=["x"])
    spawned = await stage.ask("POST", f"{AGENTS}/spawn", json=asked(), headers=headers)
    assert (spawned.status, spawned.kind) == (403, "forbidden")
    assert spawned.json["detail"] == "token `ci` may read; this needs the scope `spawn`"
    metrics = await stage.get("/metrics", headers=headers)
    assert (
        "is for some projects only; this is about all pools and projects"
        in (metrics.json["detail"])
    )
