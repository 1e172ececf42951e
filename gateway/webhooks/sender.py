"""Sends alerts to webhooks: the gateway that writes alerts does, and goes on where another ended.

Each message is tried until it was accepted, with growing pauses; then it is a dead letter, which an
operator may have sent again. Messages do not wait for each other.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Final

import aiohttp
import msgspec
import structlog

from eventstore.errors import LogError
from eventstore.ids import new_id
from eventstore.language.alerts import AlertEvent
from eventstore.log.alerts import readable
from eventstore.log.webhooks import WebhookQueue
from gateway.options import GatewayOptions, Webhook
from gateway.webhooks.deliveries import (
    ERROR_MAX,
    Attempt,
    Delivery,
    after_failure,
    decoded,
)
from gateway.webhooks.destinations import ANSWER_SECONDS, session
from gateway.webhooks.messages import TEST_TYPE, headers_of, payload_of, payload_of_test
from gateway.webhooks.stored import known_webhooks

log = structlog.get_logger("muster.gateway")

PAGE: Final = 200
SENT_AT_ONCE: Final = 10
UNKNOWN_MS: Final = 86_400_000
"""For so long messages wait for a webhook that this gateway does not know: another may."""
DEAD_MAX: Final = 1_000
"""So many dead letters are stored; the oldest are forgotten first."""


class Sender:
    """Of one gateway. `leads`: set while it writes alerts."""

    def __init__(
        self,
        queue: WebhookQueue,
        options: GatewayOptions,
        leads: asyncio.Event,
        seconds: float,
    ) -> None:
        self._queue, self._leads, self._seconds = queue, leads, seconds
        self._options = options
        self._webhooks: Mapping[str, Webhook] = {one.name: one for one in options.webhooks}
        self._failing = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._leads.wait()
            try:
                await self.round()
                self._failing = ""
            except LogError as error:
                if str(error) != self._failing and self._webhooks:
                    self._failing = str(error)
                    log.warning("webhook.queue_unreachable", reason=self._failing)
            await asyncio.sleep(self._seconds)

    async def round(self) -> None:
        """Queue what is new, and send what is due. Raises `LogError`."""
        self._webhooks = await known_webhooks(self._queue, self._options)
        if not self._webhooks:
            return
        for webhook in self._webhooks.values():
            await self._queue_new(webhook)
        now_ms = _now_ms()
        waiting = decoded((await self._queue.waiting()).values())
        due = [one for one in waiting if one.due_ms <= now_ms]
        if due:
            limit = asyncio.Semaphore(SENT_AT_ONCE)
            async with session(trusted=True) as any_address, session(trusted=False) as public:
                https = {True: any_address, False: public}
                await asyncio.gather(*(self._deliver(https, limit, one) for one in due))

    async def _queue_new(self, webhook: Webhook) -> None:
        position = await self._queue.position(webhook.name)
        if not position:  # it is new: what was before it is not sent
            await self._queue.queue(webhook.name, await self._queue.alerts.last_id(), {})
            return
        while entries := await self._queue.alerts.after(position, count=PAGE):
            position = entries[-1][0].decode()
            new = [_delivery(webhook, one) for one in readable(entries) if webhook.wants(one.body)]
            texts = {one.delivery_id: msgspec.json.encode(one) for one in new}
            await self._queue.queue(webhook.name, position, texts)

    async def _deliver(
        self,
        https: Mapping[bool, aiohttp.ClientSession],
        limit: asyncio.Semaphore,
        delivery: Delivery,
    ) -> None:
        """`https`: for webhooks that are trusted, and for others."""
        webhook = self._webhooks.get(delivery.webhook)
        if webhook is None:
            if delivery.created_ms < _now_ms() - UNKNOWN_MS:  # it is configured nowhere any more
                await self._queue.settle(delivery.delivery_id)
            return
        async with limit:
            http, body = https[webhook.trusted], delivery.body.encode()
            attempt = await attempted(http, webhook, delivery.message_id, body)
        named = {"webhook": webhook.name, "message_id": delivery.message_id}
        if attempt.delivered:
            await self._queue.settle(delivery.delivery_id)
            log.info("webhook.delivered", **named, status=attempt.status)
            return
        failed = after_failure(delivery, attempt, _now_ms(), random.random())
        text = msgspec.json.encode(failed)
        if failed.due_ms:
            await self._queue.postpone(failed.delivery_id, text)
            log.info("webhook.not_delivered", **named, reason=failed.error)
            return
        await self._queue.bury(failed.delivery_id, text)
        log.warning("webhook.given_up", **named, attempts=failed.attempts, reason=failed.error)
        dead = sorted(decoded((await self._queue.dead()).values()), key=lambda one: one.created_ms)
        await self._queue.drop_dead(*(one.delivery_id for one in dead[:-DEAD_MAX]))


async def attempted(
    http: aiohttp.ClientSession, webhook: Webhook, message_id: str, body: bytes
) -> Attempt:
    """Send a message once. A redirection is no acceptance, and is not followed."""
    started = time.monotonic()
    headers = headers_of(message_id, int(time.time()), body, webhook.secrets)
    try:
        async with http.post(
            webhook.url, data=body, headers=headers, allow_redirects=False
        ) as answer:
            status, after = answer.status, answer.headers.get("Retry-After", "")
    except TimeoutError:
        return Attempt(error=f"no answer within {ANSWER_SECONDS:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Attempt(error=f"{type(error).__name__}: {_without_address(error, webhook)}")
    seconds = round(time.monotonic() - started, 3)
    retry_after = float(after) if after.isdecimal() else 0.0
    refusal = "" if 200 <= status < 300 else f"it answered {status}"
    return Attempt(status=status, error=refusal, seconds=seconds, retry_after=retry_after)


def _without_address(error: Exception, webhook: Webhook) -> str:
    """An address may be a secret itself."""
    return str(error).replace(webhook.url, "the address")[:ERROR_MAX]


async def tested(webhook: Webhook) -> Attempt:
    """Send a message that tests a webhook; it is not repeated."""
    async with session(trusted=webhook.trusted) as http:
        message_id = f"{TEST_TYPE}.{new_id()}"
        return await attempted(http, webhook, message_id, payload_of_test(webhook.name, _now_ms()))


def _delivery(webhook: Webhook, event: AlertEvent) -> Delivery:
    return Delivery(
        webhook=webhook.name,
        message_id=event.event_id,
        type=event.body.type,
        alert_id=event.alert_id,
        body=payload_of(event).decode(),
        created_ms=event.ts,
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
