"""What is sent to a webhook, and how it is signed: as Standard Webhooks says, version 1.

The signature is an HMAC-SHA256 of the id, the time and the body. A receiver checks it with any of
that standard's libraries, refuses what is minutes old, and drops an id that it had before: a
message may come twice. https://www.standardwebhooks.com
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from eventstore.language.alerts import AlertEvent

TEST_TYPE: Final = "webhook.test"


class Payload(Struct, frozen=True):
    """The body of a message. `timestamp`: when it happened."""

    type: str
    timestamp: datetime
    data: object


def payload_of(event: AlertEvent) -> bytes:
    """The body of the message about an event."""
    data = {"alert_id": event.alert_id, **asdict(event.body)}  # with the fields that are left out
    return _encode(event.body.type, event.ts, data)


def payload_of_test(name: str, now_ms: int) -> bytes:
    """The body of a message that tests a webhook."""
    return _encode(TEST_TYPE, now_ms, {"webhook": name})


def _encode(kind: str, ms: int, data: object) -> bytes:
    return msgspec.json.encode(Payload(kind, datetime.fromtimestamp(ms / 1000, UTC), data))


def headers_of(
    message_id: str, seconds: int, body: bytes, secrets: Sequence[bytes]
) -> dict[str, str]:
    """The headers of one attempt, at a time in seconds since 1970."""
    signed = b"%b.%d.%b" % (message_id.encode(), seconds, body)
    digests = (hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets)
    return {
        "Content-Type": "application/json",
        "User-Agent": "muster",
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in digests),
    }
