"""The webhooks that a gateway sends to: those of its configuration file, and those made over HTTP.

These are in Redis, with their secrets. One of the file goes before one of the same name.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from eventstore.log.webhooks import WebhookQueue
from gateway.options import GatewayOptions, Webhook


class StoredWebhook(Struct, frozen=True, kw_only=True):
    """As it is stored. Times in ms since 1970. `secrets`: the newest first."""

    url: str
    secrets: tuple[bytes, ...]
    severity: str = "warning"
    pools: tuple[str, ...] = ()
    actor: str = ""
    """Who made it."""
    created_ms: int = 0
    changed_ms: int = 0

    def __repr__(self) -> str:
        """Without secrets, which the address may have, too."""
        return "StoredWebhook()"

    def webhook(self, name: str, *, trusted: bool) -> Webhook:
        """What messages are sent to."""
        return Webhook(
            name=name,
            url=self.url,
            secrets=self.secrets,
            severity=self.severity,
            pools=self.pools,
            trusted=trusted,
        )


def encode(stored: StoredWebhook) -> bytes:
    return msgspec.json.encode(stored)


async def stored_webhooks(queue: WebhookQueue) -> dict[str, StoredWebhook]:
    """By name; without those that this version cannot read. Raises `LogError`."""
    found = {}
    for name, text in (await queue.hooks()).items():
        try:
            found[name] = msgspec.json.decode(text, type=StoredWebhook)
        except msgspec.MsgspecError:
            continue
    return found


async def known_webhooks(queue: WebhookQueue, options: GatewayOptions) -> Mapping[str, Webhook]:
    """All of them, by name. Raises `LogError`."""
    trusted = options.webhook_private_addresses
    made = {
        name: stored.webhook(name, trusted=trusted)
        for name, stored in (await stored_webhooks(queue)).items()
    }
    return made | {webhook.name: webhook for webhook in options.webhooks}
