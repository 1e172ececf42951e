"""The pages: plain files without data of their own, which load nothing from elsewhere.

What they show they request from the API, in the session of the reader. All that a page loads is
under the digest of all these files: a browser keeps it for a year, and never mixes two versions.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from gateway.backend.call import Call
from gateway.wire.answer import Answer
from gateway.wire.problems import Kind, Problem

_TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "LICENSE": "text/plain",
}
FOR_EVER: Final = "public, max-age=31536000, immutable"
CHECKED: Final = "no-cache"
"""A browser may keep it, and asks each time whether it is still the same."""
_VERSION: Final = b"{{version}}"


async def dashboard(call: Call) -> Answer:
    """The dashboard."""
    return _page(call, "dashboard.html")


async def docs(call: Call) -> Answer:
    """This document, for reading."""
    return _page(call, "docs.html")


async def static(call: Call, version: str, file: str) -> Answer:
    """What the pages load."""
    content = _files().get(file)
    if content is None or file.endswith(".html"):
        raise Problem(Kind.NOT_FOUND, "no resource has this path")
    return _answer(call, file, content, FOR_EVER if version == _version() else CHECKED)


def _page(call: Call, name: str) -> Answer:
    content = _files()[name].replace(_VERSION, _version().encode())
    return _answer(call, name, content, CHECKED)


def _answer(call: Call, name: str, content: bytes, caching: str) -> Answer:
    tag = f'"{_digest(content)}"'
    kind = f"{_TYPES[name.rpartition('/')[2].rpartition('.')[2]]}; charset=utf-8"
    headers = {"Cache-Control": caching, "ETag": tag}
    if call.request.headers.get("If-None-Match") == tag:
        return Answer(b"", status=304, content_type=kind, headers=headers)
    return Answer(content, content_type=kind, headers=headers)


@cache
def _files() -> Mapping[str, bytes]:
    """All that is served, by path: nothing else can be named."""
    return dict(_read(files("gateway") / "static"))


def _read(folder: Traversable, path: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        name = f"{path}{entry.name}"
        if entry.is_dir():
            yield from _read(entry, f"{name}/")
        else:
            yield name, entry.read_bytes()


@cache
def _version() -> str:
    everything = hashlib.sha256()
    for name, content in sorted(_files().items()):
        everything.update(f"{name}:{len(content)}:".encode() + content)
    return everything.hexdigest()[:12]


@cache
def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
