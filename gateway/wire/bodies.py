"""A request's body as bytes: bounded in size and time, and never decompressed.

aiohttp limits the size to `body_max`. What is compressed is refused, so nothing can expand.
"""

import asyncio

from aiohttp import web

from gateway.options import LIMITS
from gateway.wire.problems import Kind, Problem


async def read_content(request: web.Request) -> bytes:
    """All of the body. Raises `Problem`."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        detail = "send the body as it is, without Content-Encoding"
        headers = {"Accept-Encoding": "identity"}
        raise Problem(
            Kind.UNSUPPORTED_MEDIA_TYPE, detail, field="Content-Encoding", headers=headers
        )
    limits = request.app[LIMITS]
    bytes_max = limits.body_max
    if request.content_length is not None and request.content_length > bytes_max:
        raise Problem(Kind.BODY_TOO_LARGE, f"the body is over {bytes_max} bytes", field="body")
    timeout_seconds = limits.body_seconds
    try:
        async with asyncio.timeout(timeout_seconds):
            return await request.read()
    except TimeoutError:
        detail = f"the body did not come within {timeout_seconds:g} s"
        raise Problem(Kind.BODY_TOO_SLOW, detail, field="body") from None
    except (web.RequestPayloadError, ConnectionError) as error:
        detail = "the body broke off, or is not framed as HTTP says"
        raise Problem(Kind.MALFORMED_HTTP, detail, field="body") from error
