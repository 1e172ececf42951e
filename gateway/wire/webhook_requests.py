"""What requests about webhooks may say: see `requests`, of which this is a part."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from gateway.wire.operating_requests import WebhookName
from gateway.wire.requests import PoolName, Request

Address = Annotated[str, Meta(min_length=1, max_length=2_000)]
Secrets = Annotated[str, Meta(min_length=1, max_length=2_000)]
Pools = Annotated[tuple[PoolName, ...], Meta(max_length=100)]


class Severity(StrEnum):
    """Of alerts. `warning`: of both."""

    WARNING = "warning"
    CRITICAL = "critical"


class WebhookCreation(Request, frozen=True, kw_only=True):
    """Create a webhook. `secret` left out or null: one is made, and answered this once.

    `pools` empty: alerts of all of them, and of what is no pool's.
    """

    name: WebhookName
    url: Address
    secret: Secrets | None = None
    severity: Severity = Severity.WARNING
    pools: Pools = ()


class WebhookPatch(Request, frozen=True, kw_only=True):
    """Change what is named of a webhook, and not null.

    `new_secret`: one is made, and answered this once. The one before signs, too, until the next.
    """

    url: Address | None = None
    secret: Secrets | None = None
    new_secret: bool = False
    severity: Severity | None = None
    pools: Pools | None = None
