"""A browser's session: from the token to its end, and what another site cannot do with it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gateway.stage import (
    AGENTS,
    TOKEN,
    Answer,
    GatewayStage,
    asked,
    gateway_stage,
    logged,
)
from tests.integration.gateway.token_callers import ADMIN, TOKENS, new_token
from tests.integration.projector.stage import POOL

OURS = {"Sec-Fetch-Site": "same-origin", "Muster-Request": "1"}


@pytest.fixture
async def stage(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayStage]:
    database = f"sqlite:///{tmp_path / 'views.db'}"
    async with gateway_stage(redis_url, database, api_token=TOKEN) as opened:
        yield opened


async def sign_in(stage: GatewayStage, token: str, **headers: str) -> Answer:
    return await stage.ask("POST", "/session", json={"token": token}, headers={**OURS, **headers})


def cookie_of(answer: Answer) -> dict[str, str]:
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


async def session(stage: GatewayStage, cookie: dict[str, str]) -> Any:
    return (await stage.get("/session", headers=cookie)).json


async def test_a_session_does_what_its_token_may_until_it_ends(stage: GatewayStage) -> None:
    scopes = ("read", "spawn")
    secret = (await new_token(stage, "ann", *scopes, pools=[POOL]))["Authorization"].split()[1]
    async with logged() as lines:
        signed_in = await sign_in(stage, secret)
        cookie = cookie_of(signed_in)
        spawned = await stage.ask(
            "POST", f"{AGENTS}/spawn", json=asked(),
            headers={**cookie, **OURS, "Prefer": "respond-async"},
        )  # fmt: skip
    assert secret not in str(lines)
    assert secret not in str(signed_in.headers)
    expected = {
        "token_required": True, "signed_in": True, "name": "ann", "scopes": list(scopes),
        "pools": [POOL], "projects": None,
    }  # fmt: skip
    assert (signed_in.json, await session(stage, cookie)) == (expected, expected)
    assert spawned.status == 202, spawned.body
    await stage.stage.settle(POOL)
    [row] = await stage.stage.sql("SELECT actor FROM {}events WHERE type = 'agent.requested'")
    assert row["actor"] == "ann"
    assert (await stage.get(TOKENS, headers=cookie)).kind == "forbidden"
    assert (await stage.get(AGENTS, headers=cookie)).status == 200
    revoked = await stage.ask("DELETE", f"{TOKENS}/ann", headers=ADMIN)
    assert revoked.status == 200
    assert (await stage.get(AGENTS, headers=cookie)).kind == "unauthorized"
    assert (await session(stage, cookie))["signed_in"] is False


async def test_what_another_site_sends_has_no_session(stage: GatewayStage) -> None:
    cookie = cookie_of(await sign_in(stage, TOKEN))
    agent_id = (await stage.ask(
        "POST", f"{AGENTS}/spawn", json=asked(), headers={**ADMIN, "Prefer": "respond-async"}
    )).json["agent_id"]  # fmt: skip
    for headers in (
        {"Sec-Fetch-Site": "cross-site", "Muster-Request": "1"},
        {"Origin": "http://elsewhere.example", "Muster-Request": "1"},
        {"Sec-Fetch-Site": "same-origin"},
    ):
        sent = {**cookie, **headers}
        for method, path in (("DELETE", f"{AGENTS}/{agent_id}"), ("DELETE", "/session")):
            assert (await stage.ask(method, path, headers=sent)).kind == "forbidden", headers
    read = await stage.get(AGENTS, headers={**cookie, "Sec-Fetch-Site": "cross-site"})
    assert read.kind == "forbidden"
    assert (await sign_in(stage, TOKEN, **{"Sec-Fetch-Site": "cross-site"})).kind == "forbidden"
    assert (await stage.get(AGENTS, headers=cookie)).json["agents"][0]["agent_id"] == agent_id


async def test_a_wrong_token_starts_no_session(stage: GatewayStage) -> None:
    refused = await sign_in(stage, "muster_wrong")
    assert refused.kind == "unauthorized"
    assert "Set-Cookie" not in refused.headers
    assert await session(stage, {}) == {
        "token_required": True, "signed_in": False, "name": "", "scopes": [],
        "pools": None, "projects": None,
    }  # fmt: skip
    ended = await stage.ask("DELETE", "/session", headers=OURS)
    assert "Max-Age=0" in ended.headers["Set-Cookie"]
