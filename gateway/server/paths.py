"""The paths that need no token: probes, pages, which have no data, and the session."""

from typing import Final

PROBES: Final = frozenset({"/healthz", "/readyz"})
PAGES: Final = frozenset({"/", "/docs"})
STATIC: Final = "/static/"
SESSION: Final = "/session"
"""How one comes to a session; it says nothing but what its caller may do."""


def is_public(path: str) -> bool:
    """Whether it needs no token."""
    return path in PROBES or path in PAGES or path == SESSION or path.startswith(STATIC)
