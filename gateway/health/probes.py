"""`/healthz` and `/readyz`: whether this process lives, and whether it makes progress."""

from collections.abc import Sequence

from aiohttp import web
from msgspec import Struct

from gateway.backend.app_keys import BACKEND
from gateway.health.facts import fallback_description, not_ready_reasons
from gateway.wire.responses import json_response


class Alive(Struct, frozen=True):
    status: str = "alive"


class Readiness(Struct, frozen=True):
    """`fallback`: the log replaces another, which could not be reached at the start."""

    status: str
    reasons: Sequence[str] = ()
    fallback: bool = False
    fallback_reason: str = ""
    fallback_can_end: bool = False
    """Whether the other answers again, so that the next start changes over to it."""


async def alive(_request: web.Request) -> web.Response:
    """`GET /healthz`: the process answers."""
    return json_response(Alive())


async def ready(request: web.Request) -> web.Response:
    """`GET /readyz`: it makes progress, or says why it does not."""
    backend = request.app[BACKEND]
    reasons = await not_ready_reasons(backend)
    fallback = backend.options.fallback
    readiness = Readiness(
        "not ready" if reasons else "ready",
        reasons,
        fallback=fallback is not None,
        fallback_reason=fallback_description(backend),
        fallback_can_end=bool(fallback and fallback.primary_reachable_ms),
    )
    return json_response(readiness, status=503 if reasons else 200)
