"""The headers of every answer: what browsers may do with it, its request, and how new it is."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from gateway.backend.call import Call
from gateway.fallback import FALLBACK_HEADER
from gateway.options import GatewayOptions
from gateway.wire.answer import Answer

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "muster",
}


def set_headers(call: Call, response: Answer | web.StreamResponse) -> None:
    """Add the headers of every answer to one that was not started."""
    headers = response.headers
    headers.update(default_headers(call.backend.options))
    headers["X-Request-Id"] = call.origin.correlation_id
    headers.update(call.read_state.headers)


async def start_stream(call: Call, response: web.StreamResponse) -> None:
    """Send the head of an answer whose content follows."""
    set_headers(call, response)
    call.started = response
    await response.prepare(call.request)


def default_headers(options: GatewayOptions) -> Mapping[str, str]:
    """The headers of every answer, also of one to what could not be read as a request."""
    if options.fallback is None:
        return SECURITY_HEADERS
    return {**SECURITY_HEADERS, FALLBACK_HEADER: options.fallback.mode}
