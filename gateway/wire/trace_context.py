"""The W3C trace context that a client sends along."""

import re
from typing import Final

from aiohttp import web

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def sent_traceparent(request: web.Request) -> str:
    """Empty if there is none, or several, or it is not valid."""
    sent = ",".join(request.headers.getall("traceparent", ()))
    return sent if _TRACEPARENT.fullmatch(sent) else ""
