"""The pages: the dashboard and the documentation of the API.

They are plain files without data of their own, and load nothing from elsewhere: what they show they
request from the API, with the token that the reader enters.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Final

from aiohttp import web

from gateway.wire.problems import Kind, Problem

_TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
_NAME: Final = re.compile(r"[a-z]+\.(css|js|svg)")


async def dashboard(_request: web.Request) -> web.Response:
    """`GET /`."""
    return _file("dashboard.html")


async def docs(_request: web.Request) -> web.Response:
    """`GET /docs`."""
    return _file("docs.html")


async def static(request: web.Request) -> web.Response:
    """`GET /static/{name}`."""
    name = request.match_info["name"]
    if not _NAME.fullmatch(name):
        raise Problem(Kind.NOT_FOUND, "no resource has this path")
    return _file(name)


def _file(name: str) -> web.Response:
    try:
        content = _read(name)
    except FileNotFoundError:
        raise Problem(Kind.NOT_FOUND, "no resource has this path") from None
    kind = _TYPES[name.rpartition(".")[2]]
    return web.Response(body=content, content_type=kind, charset="utf-8")


@cache
def _read(name: str) -> bytes:
    return (files("gateway") / "static" / name).read_bytes()
