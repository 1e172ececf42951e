"""Messages to webhooks: signed as the standard's own library expects, and tried again in time."""

import base64
import time
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from standardwebhooks.webhooks import Webhook as Receiver
from standardwebhooks.webhooks import WebhookVerificationError

from eventstore.language.alerts import AlertClosed, AlertEvent, AlertOpened
from gateway.options import Webhook
from gateway.webhooks.deliveries import (
    ERROR_MAX,
    JITTER,
    PAUSE_MAX_SECONDS,
    PAUSES_SECONDS,
    Attempt,
    Delivery,
    after_failure,
)
from gateway.webhooks.messages import headers_of, payload_of, payload_of_test

SECRET, OTHER = b"s" * 24, b"o" * 32
OPENED = AlertOpened(
    name="agent-failed",
    severity="critical",
    subject="a1",
    message="it failed",
    action="restart it",
    runbook="docs/operations.md#agent-failed",
    opened_at=1_000,
    pool_name="p",
)
CLOSED = AlertClosed(
    name="pool-at-maximum",
    severity="warning",
    subject="q",
    opened_at=1_000,
    closed_at=2_000,
    pool_name="q",
)
EVENT = AlertEvent("1-0", 1, "e1", "i1", "gateway:x", 1_500, OPENED)
DELIVERY = Delivery(
    webhook="ops", message_id="e1", type="alert.opened", alert_id="i1", body="{}", created_ms=1
)


def receiver(secret: bytes) -> Receiver:
    return Receiver(f"whsec_{base64.b64encode(secret).decode()}")


def headers(body: bytes, *secrets: bytes, seconds: int | None = None) -> dict[str, str]:
    return headers_of("e1", int(time.time()) if seconds is None else seconds, body, secrets)


def test_a_receiver_accepts_a_message_and_reads_it() -> None:
    body = payload_of(EVENT)
    found: Any = receiver(SECRET).verify(body, headers(body, SECRET))
    assert (found["type"], found["timestamp"]) == ("alert.opened", "1970-01-01T00:00:01.500000Z")
    assert found["data"]["alert_id"] == "i1"
    assert (found["data"]["subject"], found["data"]["count"]) == ("a1", 1)
    assert found["data"]["runbook"] == "docs/operations.md#agent-failed"


@pytest.mark.parametrize("secret", [SECRET, OTHER])
def test_each_of_two_secrets_signs(secret: bytes) -> None:
    body = payload_of_test("ops", 5)
    found: Any = receiver(secret).verify(body, headers(body, SECRET, OTHER))
    assert (found["type"], found["data"]) == ("webhook.test", {"webhook": "ops"})


def test_a_receiver_refuses_another_body_secret_or_time() -> None:
    body = payload_of(EVENT)
    for changed, signed in (
        (body + b" ", headers(body, SECRET)),
        (body, headers(body, OTHER)),
        (body, headers(body, SECRET, seconds=int(time.time()) - 600)),
        (body, {**headers(body, SECRET), "webhook-id": "e2"}),
    ):
        with pytest.raises(WebhookVerificationError):
            receiver(SECRET).verify(changed, signed)


def test_a_webhook_gets_the_alerts_that_it_wants() -> None:
    every = Webhook(name="ops", url="http://x", secrets=(SECRET,))
    assert every.wants(OPENED)
    assert every.wants(CLOSED)
    assert not replace(every, severity="critical").wants(CLOSED)
    assert replace(every, severity="critical").wants(OPENED)
    assert replace(every, pools=("p",)).wants(OPENED)
    assert not replace(every, pools=("p",)).wants(CLOSED)


def test_no_secret_is_shown() -> None:
    webhook = Webhook(name="ops", url="https://x/token", secrets=(SECRET,))
    assert repr(webhook) == "Webhook(name='ops')"


def test_pauses_grow_until_a_message_is_given_up() -> None:
    delivery, now = DELIVERY, 1_000_000
    for number, pause in enumerate(PAUSES_SECONDS, 1):
        delivery = after_failure(delivery, Attempt(status=500, error="it answered 500"), now, 0.0)
        assert (delivery.attempts, delivery.due_ms) == (number, now + pause * 1000)
        assert delivery.error == "it answered 500"
    delivery = after_failure(delivery, Attempt(error="refused"), now, 0.0)
    assert (delivery.attempts, delivery.due_ms) == (len(PAUSES_SECONDS) + 1, 0)


def test_a_pause_is_longer_by_chance_and_where_the_receiver_asks_for_it() -> None:
    busy = Attempt(status=429, retry_after=60.0)
    assert after_failure(DELIVERY, Attempt(), 0, 1.0).due_ms == 5_000 * (1 + JITTER)
    assert after_failure(DELIVERY, busy, 0, 0.0).due_ms == 60_000
    endless = Attempt(status=503, retry_after=1e9)
    assert after_failure(DELIVERY, endless, 0, 0.0).due_ms == PAUSE_MAX_SECONDS * 1000


def test_what_is_gone_is_not_tried_again() -> None:
    assert after_failure(DELIVERY, Attempt(status=410), 1_000, 0.5).due_ms == 0


def test_a_long_error_is_cut() -> None:
    assert len(after_failure(DELIVERY, Attempt(error="x" * 9_999), 0, 0.0).error) == ERROR_MAX


def test_only_an_answer_of_success_is_an_acceptance() -> None:
    assert [Attempt(status=one).delivered for one in (0, 199, 200, 204, 299, 301, 400)] == [
        False, False, True, True, True, False, False,
    ]  # fmt: skip


def test_a_delivery_is_stored_and_read_again() -> None:
    assert msgspec.json.decode(msgspec.json.encode(DELIVERY), type=Delivery) == DELIVERY
