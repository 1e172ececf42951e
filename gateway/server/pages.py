"""The pages: plain files without data of their own, which load nothing from elsewhere.

What they show they request from the API, with the token that the reader enters.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Final

from gateway.backend.call import Call
from gateway.wire.answer import Answer
from gateway.wire.problems import Kind, Problem

_TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
_NAME: Final = re.compile(r"[a-z]+\.(css|js|svg)")


async def dashboard(_call: Call) -> Answer:
    """The dashboard."""
    return _file("dashboard.html")


async def docs(_call: Call) -> Answer:
    """This document, for reading."""
    return _file("docs.html")


async def static(_call: Call, name: str) -> Answer:
    """What the pages load."""
    try:
        if _NAME.fullmatch(name):
            return _file(name)
    except FileNotFoundError:
        pass
    raise Problem(Kind.NOT_FOUND, "no resource has this path")


def _file(name: str) -> Answer:
    kind = _TYPES[name.rpartition(".")[2]]
    return Answer(_read(name), content_type=f"{kind}; charset=utf-8")


@cache
def _read(name: str) -> bytes:
    return (files("gateway") / "static" / name).read_bytes()
