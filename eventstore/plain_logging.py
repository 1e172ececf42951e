"""Imports structlog without rich, which it would import for tracebacks in colour.

Rich and what it needs are 70 modules, 5 MB in each process. To be called before anything imports
structlog; what imports rich later gets it.
"""

import sys


def import_structlog() -> None:
    """Does nothing where rich is imported already."""
    if "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]
        import structlog  # noqa: F401

        del sys.modules["rich"]
