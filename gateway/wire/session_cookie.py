"""A browser's session: its token in a cookie that no script can read, and who may use it.

A browser adds the cookie to whatever it sends here, also where a page of another site has it sent.
So the cookie counts as a token only in a request of which the browser says that a page of ours made
it. What changes something must also have a header that no other site can add without asking first.
The token is in the cookie itself: nothing is stored here, any gateway knows it, and it is valid for
as long as the token is.
"""

import base64
import binascii
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from gateway.wire.problems import Kind, Problem

NAME: Final = "muster_session"
SECURE_NAME: Final = f"__Host-{NAME}"
"""Of a page that came by HTTPS: a browser takes such a cookie from this very host only."""
ATTRIBUTES: Final = "Path=/; HttpOnly; SameSite=Strict"
REQUEST_HEADER: Final = "Muster-Request"
SAFE_METHODS: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})


def sent_credentials(request: web.Request) -> str:
    """What a request sends as `Authorization`: that header, else the token of its session.

    Empty for neither. Raises `Problem` for a session in a request that another site may have made.
    """
    header: str = request.headers.get("Authorization", "")
    if header or "Cookie" not in request.headers:
        return header
    cookies = request.cookies
    token = _decode(cookies.get(SECURE_NAME) or cookies.get(NAME) or "")
    if not token:
        return ""
    require_same_origin(request)
    return f"Bearer {token}"


def require_same_origin(request: web.Request) -> None:
    """Raises `Problem` unless the browser says that a page of this origin made the request.

    One that does not say so at all is known by `Origin`.
    """
    headers, safe = request.headers, request.method in SAFE_METHODS
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site is not None:
        own = site == "same-origin" or (safe and site == "none")
    else:
        own = origin is None or urlsplit(origin).netloc == request.headers.get("Host")
    if not own:
        raise Problem(Kind.FORBIDDEN, "a session is only for the pages of this gateway")
    if not safe and headers.get(REQUEST_HEADER) != "1":
        detail = f"with a session, {request.method} needs the header `{REQUEST_HEADER}: 1`"
        raise Problem(Kind.FORBIDDEN, detail, field=REQUEST_HEADER)


def start(request: web.Request, token: str) -> str:
    """The `Set-Cookie` that starts a session; it ends with the browser."""
    value = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    if _came_by_https(request):
        return f"{SECURE_NAME}={value}; {ATTRIBUTES}; Secure"
    return f"{NAME}={value}; {ATTRIBUTES}"


def end(request: web.Request) -> str:
    """The `Set-Cookie` that ends the session of a request."""
    if _came_by_https(request):
        return f"{SECURE_NAME}=; {ATTRIBUTES}; Secure; Max-Age=0"
    return f"{NAME}=; {ATTRIBUTES}; Max-Age=0"


def _came_by_https(request: web.Request) -> bool:
    """Also where a proxy in front of this gateway speaks it: the browser names its origin."""
    return request.secure or request.headers.get("Origin", "").startswith("https://")


def _decode(value: str) -> str:
    """The token in a cookie; empty if there is none."""
    try:
        padded = value + "=" * (-len(value) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
