"""Webhooks made, changed and deleted over HTTP. Those of the configuration file are changed there.

An address and the secrets are never answered again, logged, or recorded in a log; a secret that was
made here is in the answer to the request that had it made, and only there.
"""

import os
from typing import Final

import structlog
from msgspec.structs import replace

from eventstore.keys import CATALOGUE
from eventstore.language.webhook_secrets import decode_secrets, encode_secret, is_address
from eventstore.names import unknown_name
from gateway.backend.call import Call
from gateway.webhooks.destinations import REFUSAL, is_private_literal
from gateway.webhooks.endpoints import NewWebhook, WebhookRow, fields_of, queue_of
from gateway.webhooks.stored import StoredWebhook, encode, stored_webhooks
from gateway.wire.answer import Answer
from gateway.wire.operating_requests import WebhookName
from gateway.wire.problems import Kind, Problem
from gateway.wire.webhook_requests import WebhookCreation, WebhookPatch

log = structlog.get_logger("muster.gateway")

STORED_MAX: Final = 100
"""So many webhooks may be made over HTTP."""
SECRET_BYTES: Final = 32
RESERVED: Final = "dead"
"""A part of the paths of dead letters."""


async def create_webhook(call: Call, body: WebhookCreation) -> Answer:
    """Make a webhook. It gets what happens from now on."""
    _check_declared(call, body.name)
    if body.name == RESERVED:
        raise Problem(Kind.INVALID_REQUEST, f"{RESERVED!r} is no name for one", field="name")
    queue, now_ms = queue_of(call.backend), call.backend.log.now_ms(CATALOGUE)
    made = b"" if body.secret is not None else os.urandom(SECRET_BYTES)
    stored = StoredWebhook(
        url=_address(call, body.url),
        secrets=(made,) if body.secret is None else _secrets(body.secret),
        severity=body.severity.value,
        pools=tuple(dict.fromkeys(body.pools)),
        actor=call.origin.actor,
        created_ms=now_ms,
        changed_ms=now_ms,
    )
    known = await queue.hooks()
    if body.name not in known and len(known) >= STORED_MAX:
        detail = f"there are {STORED_MAX} webhooks, which is the most; delete one first"
        raise Problem(Kind.INVALID_REQUEST, detail, field="name")
    if not await queue.add_hook(body.name, encode(stored)):
        detail = f"there is a webhook {body.name!r} already; change it (PATCH), or delete it"
        raise Problem(Kind.WEBHOOK_EXISTS, detail, field="name")
    log.info("webhook.created", webhook=body.name, actor=call.origin.actor)
    return _answer(body.name, stored, made, status=201)


async def change_webhook(call: Call, name: WebhookName, body: WebhookPatch) -> Answer:
    """Change a webhook; what waits is sent as it is then."""
    if body.new_secret and body.secret is not None:
        detail = "expected either secret or new_secret"
        raise Problem(Kind.INVALID_REQUEST, detail, field="new_secret")
    found = await _stored(call, name)
    made = os.urandom(SECRET_BYTES) if body.new_secret else b""
    changed = replace(found, changed_ms=call.backend.log.now_ms(CATALOGUE))
    if body.url is not None:
        changed = replace(changed, url=_address(call, body.url))
    if body.secret is not None:
        changed = replace(changed, secrets=_secrets(body.secret))
    if made:
        changed = replace(changed, secrets=(made, found.secrets[0]))
    if body.severity is not None:
        changed = replace(changed, severity=body.severity.value)
    if body.pools is not None:
        changed = replace(changed, pools=tuple(dict.fromkeys(body.pools)))
    await queue_of(call.backend).change_hook(name, encode(changed))
    log.info("webhook.changed", webhook=name, actor=call.origin.actor)
    return _answer(name, changed, made)


async def delete_webhook(call: Call, name: WebhookName) -> Answer:
    """Delete a webhook, with its messages that wait and its dead letters."""
    found = await _stored(call, name)
    await queue_of(call.backend).remove_hook(name)
    log.info("webhook.deleted", webhook=name, actor=call.origin.actor)
    return Answer(WebhookRow(**fields_of(found.webhook(name, trusted=False), found)))


def _answer(name: str, stored: StoredWebhook, made: bytes, *, status: int = 200) -> Answer:
    """`made`: the secret that is shown this once, if one was made."""
    fields = fields_of(stored.webhook(name, trusted=False), stored)
    secret = encode_secret(made) if made else None
    return Answer(NewWebhook(secret=secret, **fields), status=status)


async def _stored(call: Call, name: str) -> StoredWebhook:
    _check_declared(call, name)
    found = await stored_webhooks(queue_of(call.backend))
    if name not in found:
        raise Problem(Kind.WEBHOOK_NOT_FOUND, unknown_name("webhook", name, found), field="name")
    return found[name]


def _check_declared(call: Call, name: str) -> None:
    if any(webhook.name == name for webhook in call.backend.options.webhooks):
        detail = f"webhook {name!r} is in the configuration file of the gateways: change it there"
        raise Problem(Kind.WEBHOOK_DECLARED, detail, field="name")


def _address(call: Call, url: str) -> str:
    """What it resolves to is checked as messages are sent."""
    if not is_address(url):
        detail = "expected an address such as https://example.com/alerts"
        raise Problem(Kind.INVALID_REQUEST, detail, field="url")
    if not call.backend.options.webhook_private_addresses and is_private_literal(url):
        raise Problem(Kind.INVALID_REQUEST, REFUSAL, field="url")
    return url


def _secrets(text: str) -> tuple[bytes, ...]:
    try:
        return decode_secrets(text)
    except ValueError as error:
        raise Problem(Kind.INVALID_REQUEST, str(error), field="secret") from None
