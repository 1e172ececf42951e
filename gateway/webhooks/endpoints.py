"""The webhooks over HTTP: which there are, a test of one, and dead letters."""

from collections.abc import Sequence
from datetime import datetime
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
from gateway.wire.answer import Answer
from gateway.wire.operating_requests import DeadLetterId, WebhookName, WebhookRequest
from gateway.wire.problems import Kind, Problem
from projector.queries.views import Timed


class WebhookRow(Struct, frozen=True, kw_only=True):
    """`waiting`: messages that are to be sent; `dead`: that are not tried any more."""

    name: str
    address: str
    """Its scheme, host and port: the rest may be a secret."""
    severity: str
    pools: Sequence[str]
    waiting: int
    dead: int
    error: str = ""
    """Of the last attempt of the oldest message that waits."""


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


def _queue(backend: Backend) -> WebhookQueue:
    return WebhookQueue(backend.log.client, backend.log.keys)


def sender_of(backend: Backend) -> Sender:
    """What sends the messages of a gateway."""
    options, seconds = backend.options, backend.limits.alert_seconds
    return Sender(_queue(backend), options.webhooks, backend.writes_alerts, seconds)


async def list_webhooks(call: Call) -> Answer:
    """The webhooks that this gateway is configured with."""
    queue = _queue(call.backend)
    waiting, dead = (
        decoded((await queue.waiting()).values()),
        decoded((await queue.dead()).values()),
    )
    rows = [_row(one, waiting, dead) for one in call.backend.options.webhooks]
    return Answer(WebhookList(sorted(rows, key=lambda row: row.name)))


def _row(webhook: Webhook, waiting: Sequence[Delivery], dead: Sequence[Delivery]) -> WebhookRow:
    own = sorted(
        (one for one in waiting if one.webhook == webhook.name), key=lambda one: one.created_ms
    )
    parts = urlsplit(webhook.url)
    return WebhookRow(
        name=webhook.name,
        address=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
        severity=webhook.severity,
        pools=webhook.pools,
        waiting=len(own),
        dead=sum(one.webhook == webhook.name for one in dead),
        error=own[0].error if own else "",
    )


async def send_test(
    call: Call,
    name: WebhookName,
    body: WebhookRequest,  # noqa: ARG001 - it is checked, and is empty
) -> Answer:
    """Send a message that tests a webhook."""
    found = {webhook.name: webhook for webhook in call.backend.options.webhooks}
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
    dead = decoded((await _queue(call.backend).dead()).values())
    return Answer(DeadLetterList([_letter(d) for d in sorted(dead, key=lambda d: d.created_ms)]))


async def retry_dead(
    call: Call,
    dead_id: DeadLetterId,
    body: WebhookRequest,  # noqa: ARG001 - it is checked, and is empty
) -> Answer:
    """Send a dead letter again, with all attempts."""
    queue = _queue(call.backend)
    found = await _dead(queue, dead_id)
    again = replace(found, attempts=0, due_ms=0)
    await queue.revive(dead_id, msgspec.json.encode(again))
    return Answer(_letter(found))


async def drop_dead(call: Call, dead_id: DeadLetterId) -> Answer:
    """Forget a dead letter."""
    queue = _queue(call.backend)
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
