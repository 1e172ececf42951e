"""The webhooks over HTTP: which there are, a test of one, and dead letters."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from eventstore.log.webhooks import WebhookQueue
from eventstore.names import unknown_name
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.options import Webhook
from gateway.webhooks.deliveries import Delivery, decoded
from gateway.webhooks.sender import Sender, tested
from gateway.webhooks.stored import StoredWebhook, known_webhooks, stored_webhooks
from gateway.wire.answer import Answer
from gateway.wire.operating_requests import DeadLetterId, WebhookName, WebhookRequest
from gateway.wire.problems import Kind, Problem
from projector.queries.views import Timed


class WebhookRow(Struct, frozen=True, kw_only=True):
    """`waiting`: messages that are to be sent; `dead`: that are not tried any more."""

    name: str
    source: str = "file"
    """`file`: of the configuration file of the gateways, and changed only there; or `api`."""
    address: str
    """Its scheme, host and port: the rest may be a secret."""
    severity: str
    pools: Sequence[str]
    waiting: int
    dead: int
    error: str = ""
    """Of the last attempt of the oldest message that waits."""
    actor: str = ""
    """Who made it; empty for one of the file, as the times are null."""
    created_at: int | None = None
    changed_at: int | None = None


class NewWebhook(WebhookRow, frozen=True, kw_only=True):
    """A webhook that was made or changed. `secret`: that was made for it, never shown again."""

    secret: str | None = None


class WebhookList(Struct, frozen=True):
    """In the order of their names."""

    webhooks: Sequence[WebhookRow]


class WebhookTest(Struct, frozen=True, kw_only=True):
    """What came of a test. `http_status` 0: no answer."""

    name: str
    delivered: bool
    http_status: int
    error: str
    seconds: float


class DeadLetter(Timed, frozen=True, kw_only=True):
    """A message that is not tried any more. `body`: what was sent, as JSON."""

    id: str
    webhook: str
    type: str
    alert_id: str
    attempts: int
    error: str
    body: str
    created_at: int
    created_time: datetime | None = None


class DeadLetterList(Struct, frozen=True):
    """The oldest first."""

    dead: Sequence[DeadLetter]


def queue_of(backend: Backend) -> WebhookQueue:
    """Where they, and their messages, are stored."""
    return WebhookQueue(backend.log.client, backend.log.keys)


def sender_of(backend: Backend) -> Sender:
    """What sends the messages of a gateway."""
    seconds = backend.limits.alert_seconds
    return Sender(queue_of(backend), backend.options, backend.writes_alerts, seconds)


async def list_webhooks(call: Call) -> Answer:
    """The webhooks of this gateway's configuration, and those that were made over HTTP."""
    queue = queue_of(call.backend)
    waiting, dead = (
        decoded((await queue.waiting()).values()),
        decoded((await queue.dead()).values()),
    )
    known = await known_webhooks(queue, call.backend.options)
    stored = await stored_webhooks(queue)
    declared = {webhook.name for webhook in call.backend.options.webhooks}
    rows = [
        WebhookRow(**fields_of(one, None if name in declared else stored[name], waiting, dead))
        for name, one in sorted(known.items())
    ]
    return Answer(WebhookList(rows))


def fields_of(
    webhook: Webhook,
    stored: StoredWebhook | None,
    waiting: Sequence[Delivery] = (),
    dead: Sequence[Delivery] = (),
) -> dict[str, Any]:
    """Of a row. `stored`: None if it is of the file."""
    own = sorted(
        (one for one in waiting if one.webhook == webhook.name), key=lambda one: one.created_ms
    )
    parts = urlsplit(webhook.url)
    made: dict[str, Any] = {}
    if stored is not None:
        times = {"created_at": stored.created_ms, "changed_at": stored.changed_ms}
        made = {"source": "api", "actor": stored.actor, **times}
    return {
        "name": webhook.name,
        "address": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
        "severity": webhook.severity,
        "pools": webhook.pools,
        "waiting": len(own),
        "dead": sum(one.webhook == webhook.name for one in dead),
        "error": own[0].error if own else "",
        **made,
    }


async def send_test(
    call: Call,
    name: WebhookName,
    body: WebhookRequest,  # noqa: ARG001 - it is checked, and is empty
) -> Answer:
    """Send a message that tests a webhook."""
    found = await known_webhooks(queue_of(call.backend), call.backend.options)
    if name not in found:
        detail = unknown_name("webhook", name, found)
        raise Problem(Kind.WEBHOOK_NOT_FOUND, detail, field="name")
    attempt = await tested(found[name])
    return Answer(
        WebhookTest(
            name=name,
            delivered=attempt.delivered,
            http_status=attempt.status,
            error=attempt.error,
            seconds=attempt.seconds,
        )
    )


async def list_dead(call: Call) -> Answer:
    """The messages that could not be delivered and are not tried any more."""
    dead = decoded((await queue_of(call.backend).dead()).values())
    return Answer(DeadLetterList([_letter(d) for d in sorted(dead, key=lambda d: d.created_ms)]))


async def retry_dead(
    call: Call,
    dead_id: DeadLetterId,
    body: WebhookRequest,  # noqa: ARG001 - it is checked, and is empty
) -> Answer:
    """Send a dead letter again, with all attempts."""
    queue = queue_of(call.backend)
    found = await _dead(queue, dead_id)
    again = replace(found, attempts=0, due_ms=0)
    await queue.revive(dead_id, msgspec.json.encode(again))
    return Answer(_letter(found))


async def drop_dead(call: Call, dead_id: DeadLetterId) -> Answer:
    """Forget a dead letter."""
    queue = queue_of(call.backend)
    found = await _dead(queue, dead_id)
    await queue.drop_dead(dead_id)
    return Answer(_letter(found))


async def _dead(queue: WebhookQueue, dead_id: str) -> Delivery:
    found = {one.delivery_id: one for one in decoded((await queue.dead()).values())}
    if dead_id not in found:
        detail = f"there is no dead letter {dead_id}"
        raise Problem(Kind.DEAD_LETTER_NOT_FOUND, detail, field="dead_id")
    return found[dead_id]


def _letter(delivery: Delivery) -> DeadLetter:
    return DeadLetter(
        id=delivery.delivery_id,
        webhook=delivery.webhook,
        type=delivery.type,
        alert_id=delivery.alert_id,
        attempts=delivery.attempts,
        error=delivery.error,
        body=delivery.body,
        created_at=delivery.created_ms,
    )
