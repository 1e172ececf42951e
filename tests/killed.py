"""Runs `muster` and kills it, as `kill -9` would, right after a named step of a change-over.

    python -m tests.killed STEP up --data-dir …

The steps are patched from here, so the product knows nothing of them.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from muster.__main__ import main
from muster.fallback import handover, report
from muster.fallback.directory import Folder
from muster.fallback.fallback_log import FallbackLog
from muster.fallback.primary_log import PrimaryLog

STEPS: dict[str, tuple[Any, str]] = {
    "given": (FallbackLog, "release"),
    "taken": (PrimaryLog, "submit"),
    "noted": (FallbackLog, "write_entry"),
    "archived": (handover, "_archive"),
    "leftovers": (report, "write_not_handed_over"),
    "retired": (Folder, "retire"),
}
"""In the order in which they come: what is to be called, and then no more."""


def kill_after(owner: Any, name: str) -> None:
    whole: Callable[..., Any] = getattr(owner, name)

    async def later(*args: Any, **named: Any) -> None:
        await whole(*args, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    def now(*args: Any, **named: Any) -> None:
        whole(*args, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    is_async = whole.__code__.co_flags & 0x80  # CO_COROUTINE
    setattr(owner, name, later if is_async else now)


if __name__ == "__main__":
    kill_after(*STEPS[sys.argv[1]])
    sys.exit(main(sys.argv[2:]))
