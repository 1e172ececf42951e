"""The access log: who asked for what, and what became of it; nothing that is secret."""

from typing import Any

from tests.integration.gateway.stage import (
    AGENTS,
    TOKEN,
    GatewayStage,
    asked,
    gateway_stage,
    logged,
)
from tests.integration.gateway.token_callers import ADMIN, new_token
from tests.waiting import until


def answered(lines: list[Any], level: str = "info") -> list[Any]:
    found = [line for line in lines if line["event"] == "gateway.answered"]
    return [line for line in found if line["log_level"] == level]


async def test_every_request_is_logged_with_who_sent_it(redis_url, tmp_path):
    database = f"sqlite:///{tmp_path / 'v.db'}"
    opened = gateway_stage(redis_url, database, api_token=TOKEN, access_log=True)
    async with logged() as lines, opened as stage:
        headers = await new_token(stage, "ci", "spawn")
        headers["Prefer"] = "respond-async"
        sent = {**headers, "X-Request-Id": "r-1"}
        for _ in range(2):  # the second time by its known head
            await stage.ask("POST", f"{AGENTS}/spawn?", json=asked(), headers=headers)
        body = asked(input={"password": "hunter2"})
        await stage.ask("POST", f"{AGENTS}/spawn", json=body, headers=sent)
        await stage.get(f"{AGENTS}?label=secret:hunter2", headers=headers)
        await stage.get(f"{AGENTS}/{'x' * 500}", headers={"Authorization": "Bearer hunter2"})
        await stage.get("/healthz")
    spawned, refused, unknown = answered(lines)[-3:]
    assert {**spawned, "ms": 0} == {
        "event": "gateway.answered",
        "log_level": "info",
        "method": "POST",
        "route": f"{AGENTS}/spawn",
        "status": 202,
        "ms": 0,
        "path": f"{AGENTS}/spawn",
        "actor": "ci",
        "client": "127.0.0.1",
        "request_id": "r-1",
    }
    assert (refused["status"], refused["path"], refused["actor"]) == (403, AGENTS, "ci")
    assert (unknown["status"], len(unknown["path"]), unknown["actor"]) == (401, 200, "http")
    assert "/healthz" not in repr(answered(lines))
    assert "hunter2" not in repr(lines)
    assert headers["Authorization"].split()[1] not in repr(lines)


async def test_a_stream_is_logged_when_its_client_leaves(redis_url, tmp_path):
    database = f"sqlite:///{tmp_path / 'v.db'}"
    opened = gateway_stage(redis_url, database, api_token=TOKEN, access_log=True)
    async with logged() as lines, opened as stage:
        async with stage.session.get("/api/v1/events", headers=ADMIN) as response:
            assert response.status == 200
        line = await until(lambda: streams(lines))
    assert (line[0]["status"], line[0]["actor"]) == (499, "http")


def streams(lines: list[Any]) -> list[Any]:
    return [line for line in answered(lines) if line["route"] == "/api/v1/events"]


async def test_nothing_is_logged_for_operators_unless_it_is_asked_for(stage: GatewayStage):
    async with logged() as lines:
        await stage.get(AGENTS)
    assert answered(lines) == []
