"""Alerts that are sent to a real receiver, which checks them with the standard's own library."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace
from standardwebhooks.webhooks import Webhook as Verifier

from gateway.options import Webhook
from tests.integration.gateway.stage import (
    AGENTS,
    QUICK,
    GatewayStage,
    another_gateway,
    gateway_stage,
    logged,
)
from tests.integration.projector.stage import POOL
from tests.waiting import until

OFTEN = replace(QUICK, alert_seconds=0.05)
SECRET = b"s" * 24
WEBHOOKS = "/api/v1/webhooks"


class Receiver:
    """Verifies each request; `statuses` are its next answers, then 204."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.messages: list[tuple[str, Any]] = []
        self.verifier = Verifier(f"whsec_{base64.b64encode(SECRET).decode()}")

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        payload = self.verifier.verify(body, dict(request.headers))
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), headers={"Location": "/else"})
        self.messages.append((request.headers["webhook-id"], payload))
        return web.Response(status=204)

    def of(self, name: str) -> list[tuple[str, Any]]:
        return [one for one in self.messages if one[1]["data"].get("name") == name]


@pytest.fixture
async def receiver(unused_tcp_port: int) -> AsyncIterator[tuple[Receiver, str]]:
    """One, and its address."""
    receiver, app = Receiver(), web.Application()
    app.add_routes([web.post("/hook", receiver.answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    yield receiver, f"http://127.0.0.1:{unused_tcp_port}/hook"
    await runner.cleanup()


@pytest.fixture
async def sending(
    redis_url: str,
    tmp_path: Path,
    receiver: tuple[Receiver, str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[GatewayStage]:
    """A gateway that sends to it, and tries again at once, twice."""
    monkeypatch.setattr("gateway.webhooks.deliveries.PAUSES_SECONDS", (0.01, 0.01))
    webhook = Webhook(name="ops", url=receiver[1], secrets=(SECRET,))
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, limits=OFTEN, webhooks=(webhook,)) as stage:
        await until(lambda: _position(stage))
        yield stage


async def _position(stage: GatewayStage) -> Any:
    keys = stage.log.keys
    return await stage.log.client.execute_command("HGET", keys.alerts_part("webhooks"), "ops")


async def failed_agent(stage: GatewayStage) -> str:
    agent_id = await stage.pending()
    await stage.fail(await stage.worker())
    return agent_id


async def listed(stage: GatewayStage) -> dict[str, Any]:
    [found] = (await stage.get(WEBHOOKS)).json["webhooks"]
    return dict(found)


async def test_what_opens_and_closes_is_sent(
    sending: GatewayStage, receiver: tuple[Receiver, str]
) -> None:
    got, _ = receiver
    agent_id = await failed_agent(sending)
    await until(lambda: got.of("agent-failed"))
    [(message_id, opened)] = got.of("agent-failed")
    assert (opened["type"], opened["data"]["subject"]) == ("alert.opened", agent_id)
    assert (opened["data"]["pool_name"], opened["data"]["severity"]) == (POOL, "critical")
    await sending.ask("POST", f"{AGENTS}/{agent_id}/restart", headers={"Prefer": "respond-async"})
    await until(lambda: len(got.of("agent-failed")) == 2)
    other_id, closed = got.of("agent-failed")[1]
    assert (closed["type"], closed["data"]["alert_id"]) == (
        "alert.closed", opened["data"]["alert_id"],
    )  # fmt: skip
    assert other_id != message_id


async def test_a_message_that_was_refused_is_sent_again_under_its_id(
    sending: GatewayStage, receiver: tuple[Receiver, str]
) -> None:
    """A redirection is a refusal: the message goes where it was configured to go."""
    got, _ = receiver
    got.statuses = [500, 302]
    await failed_agent(sending)
    await until(lambda: got.of("agent-failed"))
    assert len(got.of("agent-failed")) == 1
    assert not got.statuses

    async def settled() -> bool:
        return (await listed(sending))["waiting"] == 0

    await until(settled)


async def test_what_is_never_accepted_is_a_dead_letter_that_can_be_sent_again(
    sending: GatewayStage, receiver: tuple[Receiver, str]
) -> None:
    got, _ = receiver
    got.statuses = [500] * 3
    async with logged() as lines:
        await failed_agent(sending)
        await until(lambda: "webhook.given_up" in [line["event"] for line in lines])
    [letter] = (await sending.get(f"{WEBHOOKS}/dead")).json["dead"]
    assert (letter["webhook"], letter["attempts"], letter["error"]) == ("ops", 3, "it answered 500")
    assert (await listed(sending))["dead"] == 1
    again = await sending.ask("POST", f"{WEBHOOKS}/dead/{letter['id']}/retry", json={})
    assert (again.status, again.json["id"]) == (200, letter["id"])
    await until(lambda: got.of("agent-failed"))
    assert f"ops:{got.of('agent-failed')[0][0]}" == letter["id"]
    gone = await sending.ask("DELETE", f"{WEBHOOKS}/dead/{letter['id']}")
    assert (gone.status, gone.kind) == (404, "dead-letter-not-found")


async def test_what_is_gone_is_a_dead_letter_at_once_and_can_be_forgotten(
    sending: GatewayStage, receiver: tuple[Receiver, str]
) -> None:
    got, _ = receiver
    got.statuses = [410]
    await failed_agent(sending)

    async def dead() -> list[dict[str, Any]]:
        return list((await sending.get(f"{WEBHOOKS}/dead")).json["dead"])

    [letter] = await until(dead)
    assert letter["attempts"] == 1
    [alert] = await sending.alerts("webhook-undelivered")
    assert (alert["subject"], alert["count"]) == ("ops", 1)
    assert "it answered 410" in alert["message"]
    assert (await sending.ask("DELETE", f"{WEBHOOKS}/dead/{letter['id']}")).status == 200
    assert await dead() == []
    assert await sending.alerts("webhook-undelivered") == []
    assert not got.of("agent-failed")


async def test_a_webhook_can_be_tested(
    sending: GatewayStage, receiver: tuple[Receiver, str]
) -> None:
    got, _ = receiver
    answer = await sending.ask("POST", f"{WEBHOOKS}/ops/test", json={})
    assert (answer.status, answer.json["delivered"], answer.json["http_status"]) == (200, True, 204)
    [(message_id, payload)] = got.messages
    assert message_id.startswith("webhook.test.")
    assert payload["type"] == "webhook.test"
    got.statuses = [503]
    answer = await sending.ask("POST", f"{WEBHOOKS}/ops/test", json={})
    assert (answer.json["delivered"], answer.json["error"]) == (False, "it answered 503")
    unknown = await sending.ask("POST", f"{WEBHOOKS}/opps/test", json={})
    assert (unknown.status, unknown.kind) == (404, "webhook-not-found")
    assert "did you mean `ops`?" in unknown.json["detail"]


async def test_an_address_where_nothing_answers_is_named_without_its_path(
    redis_url: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}/a-secret-token"
    webhook = Webhook(name="ops", url=url, secrets=(SECRET,))
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, webhooks=(webhook,)) as stage:
        answer = await stage.ask("POST", f"{WEBHOOKS}/ops/test", json={})
        assert not answer.json["delivered"]
        assert "Cannot connect" in answer.json["error"]
        row = await listed(stage)
        assert row["address"] == f"http://127.0.0.1:{unused_tcp_port}"
        assert b"a-secret-token" not in answer.body


async def test_another_gateway_sends_what_waits(
    sending: GatewayStage, receiver: tuple[Receiver, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    got, _ = receiver
    monkeypatch.setattr("gateway.webhooks.deliveries.PAUSES_SECONDS", (0.3, 0.3))
    got.statuses = [500]
    await failed_agent(sending)
    await until(lambda: not got.statuses)
    options = sending.gateway._options
    monkeypatch.setattr("tests.integration.gateway.stage.options", lambda *_: options)
    async with another_gateway(sending):
        await sending.gateway.stop()
        await until(lambda: got.of("agent-failed"))


async def test_without_webhooks_none_are_listed(stage: GatewayStage) -> None:
    assert (await stage.get(WEBHOOKS)).json == {"webhooks": []}
    assert (await stage.get(f"{WEBHOOKS}/dead")).json == {"dead": []}


# ---- made over HTTP --------------------------------------------------------------------------


@pytest.fixture
async def open_stage(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayStage]:
    """A gateway with one webhook in its file, that may send to this machine."""
    declared = Webhook(name="ops", url="http://127.0.0.1:9/", secrets=(SECRET,))
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(
        redis_url, database, limits=OFTEN, webhooks=(declared,), webhook_private_addresses=True
    ) as stage:
        yield stage


async def test_a_webhook_is_made_changed_and_deleted_over_http(
    open_stage: GatewayStage, receiver: tuple[Receiver, str]
) -> None:
    """Its secret is shown once, and signs; it and the path are in no log and no later answer."""
    (got, url), stage = receiver, open_stage
    async with logged() as lines:
        made = await stage.ask("POST", WEBHOOKS, json={"name": "new", "url": url})
        assert made.status == 201
        secret = made.json["secret"]
        got.verifier = Verifier(secret)
        await failed_agent(stage)
        await until(lambda: got.of("agent-failed"))
        changed = await stage.ask("PATCH", f"{WEBHOOKS}/new", json={"new_secret": True})
        latest = changed.json["secret"]
        for one in (secret, latest):  # each signs
            got.verifier = Verifier(one)
            assert (await stage.ask("POST", f"{WEBHOOKS}/new/test")).json["delivered"]
        calm = await stage.ask("PATCH", f"{WEBHOOKS}/new", json={"severity": "critical"})
        rows = (await stage.get(WEBHOOKS)).json["webhooks"]
    assert [(one["name"], one["source"], one["severity"]) for one in rows] == [
        ("new", "api", "critical"), ("ops", "file", "warning"),
    ]  # fmt: skip
    assert (calm.json["secret"], calm.json["address"]) == (None, url.removesuffix("/hook"))
    shown = f"{calm.json} {rows} {lines}"
    assert not any(one in shown for one in (secret, latest, "/hook"))
    logs = [line["event"] for line in lines if line["event"].startswith("webhook.c")]
    assert logs == ["webhook.created", "webhook.changed", "webhook.changed"]
    assert "token" not in str(await stage.events())
    gone = await stage.ask("DELETE", f"{WEBHOOKS}/new")
    assert (gone.status, gone.json["name"]) == (200, "new")
    assert [one["name"] for one in (await stage.get(WEBHOOKS)).json["webhooks"]] == ["ops"]
    assert (await stage.ask("DELETE", f"{WEBHOOKS}/new")).kind == "webhook-not-found"


@pytest.mark.parametrize(
    ("method", "path", "body", "kind"),
    [
        ("POST", "", {"name": "ops", "url": "https://x.test"}, "webhook-declared"),
        ("PATCH", "/ops", {"severity": "critical"}, "webhook-declared"),
        ("DELETE", "/ops", None, "webhook-declared"),
        ("POST", "", {"name": "here", "url": "https://x.test"}, "webhook-exists"),
        ("PATCH", "/hers", {}, "webhook-not-found"),
        ("POST", "", {"name": "dead", "url": "https://x.test"}, "invalid-request"),
        ("POST", "", {"name": "a", "url": "ftp://x.test"}, "invalid-request"),
        ("POST", "", {"name": "a", "url": "https://x.test", "secret": "s3cr"}, "invalid-request"),
        ("PATCH", "/here", {"secret": "s3cr" * 999}, "invalid-request"),
        ("PATCH", "/here", {"secret": ["s3cr"]}, "invalid-request"),
        ("PATCH", "/here", {"secret": "whsec_s3cr", "new_secret": True}, "invalid-request"),
    ],
)
async def test_what_is_no_change_of_a_webhook_is_refused_without_showing_a_secret(
    open_stage: GatewayStage, method: str, path: str, body: Any, kind: str
) -> None:
    here = {"name": "here", "url": "https://x.test"}
    assert (await open_stage.ask("POST", WEBHOOKS, json=here)).status == 201
    answer = await open_stage.ask(method, f"{WEBHOOKS}{path}", json=body)
    assert answer.kind == kind
    assert "s3cr" not in str(answer.json)


async def test_a_webhook_that_is_deleted_takes_its_messages_with_it(
    open_stage: GatewayStage, receiver: tuple[Receiver, str]
) -> None:
    (got, url), stage = receiver, open_stage
    secret = f"whsec_{base64.b64encode(SECRET).decode()}"
    made = {"name": "new", "url": url, "secret": secret}
    assert (await stage.ask("POST", WEBHOOKS, json=made)).json["secret"] is None
    got.statuses = [410]
    await failed_agent(stage)

    async def dead() -> list[str]:
        return [one["webhook"] for one in (await stage.get(f"{WEBHOOKS}/dead")).json["dead"]]

    await until(dead)
    assert await dead() == ["new"]
    await stage.ask("DELETE", f"{WEBHOOKS}/new")
    assert await dead() == []


async def test_what_was_made_over_http_reaches_no_address_that_is_not_public(
    stage: GatewayStage, receiver: tuple[Receiver, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its number it is not even made; a name is checked as it is connected to, each time."""
    got, url = receiver
    refused = await stage.ask("POST", WEBHOOKS, json={"name": "a", "url": url})
    assert refused.kind == "invalid-request"
    assert "not public" in refused.json["detail"]
    for name, host, why in (("a", "localhost", "not public"), ("b", "127.1", "not a canonical")):
        there = url.replace("127.0.0.1", host)
        made = await stage.ask("POST", WEBHOOKS, json={"name": name, "url": there})
        assert made.status == 201, made.body
        answer = (await stage.ask("POST", f"{WEBHOOKS}/{name}/test")).json
        assert not answer["delivered"]
        assert why in answer["error"], answer
    assert got.messages == []
