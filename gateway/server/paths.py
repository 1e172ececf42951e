"""The paths that need no token: the probes, and the pages, which have no data."""

from typing import Final

PROBES: Final = frozenset({"/healthz", "/readyz"})
PAGES: Final = frozenset({"/", "/docs"})
STATIC: Final = "/static/"


def is_public(path: str) -> bool:
    """Whether it needs no token: the probes, and the pages, which have no data."""
    return path in PROBES or path in PAGES or path.startswith(STATIC)
